import pytest

from agent.config.proxies import proxy_for

BACKEND = "https://otlp.example.net:4318"


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({}, None),
        ({"HTTP_PROXY": "http://p:1"}, None),
        ({"HTTPS_PROXY": "http://p:1"}, ("http://p:1", "HTTPS_PROXY")),
        ({"HTTPS_PROXY": "p:1"}, ("http://p:1", "HTTPS_PROXY")),
        ({"https_proxy": "http://a:1", "HTTPS_PROXY": "http://b:1"}, ("http://a:1", "https_proxy")),
        ({"https_proxy": "", "ALL_PROXY": "http://c:1"}, ("http://c:1", "ALL_PROXY")),
    ],
)
def test_the_scheme_of_the_backend_selects_the_variable(
    environ: dict[str, str], found: tuple[str, str] | None
) -> None:
    proxy = proxy_for(BACKEND, environ)

    assert (None if proxy is None else (proxy.url, proxy.variable)) == found


@pytest.mark.parametrize(
    ("endpoint", "no_proxy", "direct"),
    [
        (BACKEND, "*", True),
        (BACKEND, "a, example.net", True),
        (BACKEND, ".example.net", True),
        (BACKEND, "OTLP.example.net:4318", True),
        (BACKEND, "otlp.example.net:443", False),
        (BACKEND, "ample.net", False),
        (BACKEND, "", False),
        ("https://10.1.2.3", "10.0.0.0/8", True),
        ("https://10.1.2.3", "10.1.2.3:443", True),
        ("https://10.1.2.3", "10.1.2.4", False),
        ("https://[2001:db8::1]", "2001:db8::/32", True),
    ],
)
def test_no_proxy_names_hosts_domains_and_networks(endpoint: str, no_proxy: str, direct: bool) -> None:
    found = proxy_for(endpoint, {"HTTPS_PROXY": "http://p:1", "NO_PROXY": no_proxy})

    assert (found is None) is direct


@pytest.mark.parametrize(
    "url", ["socks5://user:secret@p:1", "https://p", "http://user:secret@", "http://p:x"]
)
def test_a_proxy_that_cannot_be_used_is_named_without_its_credentials(url: str) -> None:
    with pytest.raises(ValueError, match=r"^HTTPS_PROXY: not the URL of an HTTP proxy") as raised:
        proxy_for(BACKEND, {"HTTPS_PROXY": url})

    assert "secret" not in str(raised.value)


def test_a_proxy_does_not_show_its_credentials() -> None:
    assert "secret" not in repr(proxy_for(BACKEND, {"HTTPS_PROXY": "http://user:secret@p:1"}))
