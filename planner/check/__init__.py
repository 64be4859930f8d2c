"""Does a planned run compute what one device computes? `check_plan` answers for any plan and model."""

from planner.check.compare import check_plan as check_plan
from planner.check.report import CheckReport as CheckReport
from planner.check.report import TensorCheck as TensorCheck
