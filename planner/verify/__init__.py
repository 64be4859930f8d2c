"""Is a plan what its compiler makes of it? `verify_plan` compiles it for any target, without the hardware."""

from planner.verify.report import StageReport as StageReport
from planner.verify.report import Surprise as Surprise
from planner.verify.report import VerifyReport as VerifyReport
from planner.verify.verify import verify_plan as verify_plan
