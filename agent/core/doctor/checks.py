"""All checks of `barograph doctor`, in the order of the output. docs/doctor.md is made from this."""

from collections.abc import Mapping

from agent.core.doctor.checks_agent import AGENT_CHECKS
from agent.core.doctor.checks_backends import BACKEND_CHECKS
from agent.core.doctor.checks_pod import POD_CHECKS
from agent.core.doctor.checks_vms import VM_CHECKS
from agent.core.doctor.codes import Check, Code

CHECKS: Mapping[Code, Check] = {**VM_CHECKS, **BACKEND_CHECKS, **POD_CHECKS, **AGENT_CHECKS}
