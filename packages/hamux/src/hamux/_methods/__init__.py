"""Methods of descent, one idea a file."""

from ._anderson import Anderson as Anderson
from ._asynchronous import Asynchronous as Asynchronous
from ._backtracking import Backtracking as Backtracking
from ._certified import Certified as Certified
from ._explicit import Explicit as Explicit
from ._gauss_seidel import GaussSeidel as GaussSeidel
from ._langevin import Langevin as Langevin
from ._method import (
    Method as Method,
    Point as Point,
    Problem as Problem,
    Step as Step,
    certify as certify,
)
from ._momentum import Momentum as Momentum
from ._ode import ODE as ODE
