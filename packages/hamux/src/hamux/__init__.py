"""Hierarchical associative memories: neurons, Lagrangians, hypersynapses, one energy, and its descent."""

from . import nn as nn
from ._adjoints import (
    Adjoint as Adjoint,
    Implicit as Implicit,
    Truncated as Truncated,
    Unrolled as Unrolled,
)
from ._batches import without_explicit_axes as without_explicit_axes
from ._binding import Bound as Bound, Module as Module
from ._certificate import Certificate as Certificate
from ._convolutions import (
    ConvHopfieldSynapse as ConvHopfieldSynapse,
    ConvSynapse as ConvSynapse,
    PoolSynapse as PoolSynapse,
)
from ._descent import (
    Descent as Descent,
    Progress as Progress,
    Reason as Reason,
    Record as Record,
    Retrieval as Retrieval,
)
from ._dynamics import (
    descend as descend,
    relax as relax,
)
from ._equilibrium import Equilibrium as Equilibrium
from ._facts import declared as declared
from ._ham import (
    HAM as HAM,
    VectorizedHAM as VectorizedHAM,
)
from ._lagrangians import (
    lagr_exp as lagr_exp,
    lagr_ghostmax as lagr_ghostmax,
    lagr_identity as lagr_identity,
    lagr_layernorm as lagr_layernorm,
    lagr_relu as lagr_relu,
    lagr_repu as lagr_repu,
    lagr_rexp as lagr_rexp,
    lagr_sigmoid as lagr_sigmoid,
    lagr_sign as lagr_sign,
    lagr_softmax as lagr_softmax,
    lagr_spherical_norm as lagr_spherical_norm,
    lagr_tanh as lagr_tanh,
)
from ._landscape import (
    FixedPoints as FixedPoints,
    basin as basin,
    energy_between as energy_between,
    energy_plane as energy_plane,
    fixed_points as fixed_points,
    plane_coordinates as plane_coordinates,
)
from ._learning import (
    contrastive_gradient as contrastive_gradient,
    equilibrium_gradient as equilibrium_gradient,
)
from ._methods import (
    ODE as ODE,
    Anderson as Anderson,
    Asynchronous as Asynchronous,
    Backtracking as Backtracking,
    Certified as Certified,
    Explicit as Explicit,
    GaussSeidel as GaussSeidel,
    Langevin as Langevin,
    Method as Method,
    Momentum as Momentum,
    Point as Point,
    Problem as Problem,
    Step as Step,
    certify as certify,
)
from ._neurons import Neurons as Neurons
from ._planes import PlaneSynapse as PlaneSynapse, SubspaceSynapse as SubspaceSynapse
from ._random_features import RandomFeatureSynapse as RandomFeatureSynapse
from ._retrieval import CertifiedRetrieval as CertifiedRetrieval, certify_retrieval as certify_retrieval
from ._sparse import (
    lagr_entmax as lagr_entmax,
    lagr_k_subsets as lagr_k_subsets,
    lagr_normmax as lagr_normmax,
)
from ._synapses import (
    AttentionSynapse as AttentionSynapse,
    BiasSynapse as BiasSynapse,
    DenseSynapse as DenseSynapse,
    HopfieldSynapse as HopfieldSynapse,
    KernelSynapse as KernelSynapse,
    Readied as Readied,
)
from ._verdict import Outcome as Outcome, Verdict as Verdict, verdict as verdict
