"""Hierarchical associative memories: neurons, Lagrangians, hypersynapses, one energy, and its descent."""

from ._dynamics import (
    Retrieval as Retrieval,
    descend as descend,
    relax as relax,
)
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
    lagr_softmax as lagr_softmax,
    lagr_spherical_norm as lagr_spherical_norm,
    lagr_tanh as lagr_tanh,
)
from ._neurons import Neurons as Neurons
from ._synapses import (
    AttentionSynapse as AttentionSynapse,
    BiasSynapse as BiasSynapse,
    ConvSynapse as ConvSynapse,
    DenseSynapse as DenseSynapse,
    HopfieldSynapse as HopfieldSynapse,
    KernelSynapse as KernelSynapse,
)
