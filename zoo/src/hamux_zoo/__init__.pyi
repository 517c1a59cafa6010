from .answers import predict as predict
from .config import Config as Config
from .data import load_images as load_images, load_samples as load_samples, stream_images as stream_images
from .files import Bundled as Bundled, list_pretrained as list_pretrained
from .measure import evaluate as evaluate
from .memory import (
    Attributed as Attributed,
    Clamp as Clamp,
    Classifier as Classifier,
    Dynamics as Dynamics,
    Featured as Featured,
    Generator as Generator,
    Memory as Memory,
    Recalled as Recalled,
    Rehearsal as Rehearsal,
    States as States,
    compiled as compiled,
)
from .models import from_pretrained as from_pretrained, list_models as list_models, push_folder as push_folder
from .models.conv_ham import ConvHAM as ConvHAM, ConvHAMConfig as ConvHAMConfig
from .models.dense_hopfield import DenseHopfield as DenseHopfield, DenseHopfieldConfig as DenseHopfieldConfig
from .models.energy_transformer import (
    EnergyTransformer as EnergyTransformer,
    EnergyTransformerConfig as EnergyTransformerConfig,
)
from .models.probed import Probed as Probed, ProbedConfig as ProbedConfig
from .training import (
    Probe as Probe,
    Recipe as Recipe,
    calibrate as calibrate,
    finetune as finetune,
    probe as probe,
    train as train,
)
