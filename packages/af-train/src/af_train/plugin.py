"""The objectives and metrics of af-train, registered through the hooks of af-core."""

from af_core.plugins import hookimpl
from af_core.plugins.hookspecs import API_VERSION, Register

from af_train.metrics import options as metrics
from af_train.objectives.options import (
    CausalOdeOptions,
    DiffusionForcingOptions,
    DmdOptions,
    FlowMatchingOptions,
    OdeRegressionOptions,
    SelfForcingOptions,
)

af_plugin_api = API_VERSION


@hookimpl
def af_register_objectives(register: Register) -> None:
    """Offer what the two-stage distillation and its baselines are made of."""
    register("flow-matching", FlowMatchingOptions)
    register("diffusion-forcing", DiffusionForcingOptions)
    register("ode-regression", OdeRegressionOptions)
    register("causal-ode", CausalOdeOptions)
    register("dmd", DmdOptions)
    register("self-forcing", SelfForcingOptions)


@hookimpl
def af_register_metrics(register: Register) -> None:
    """Offer what generated clips are measured with; docs/metrics.md defines each."""
    register("fid", metrics.FrechetOptions)
    register("kid", metrics.KernelOptions)
    register("fvd", metrics.VideoFrechetOptions)
    register("csim", metrics.IdentityOptions)
    register("csim_fullframe", metrics.FullFrameIdentityOptions)
    register("ssim", metrics.SimilarityOptions)
    register("sharpness", metrics.SharpnessOptions)
    register("delta_e", metrics.ColourDriftOptions)
    register("adj_lpips", metrics.FlickerOptions)
    register("drift", metrics.DriftOptions)
    register("sync", metrics.SyncOptions)
    register("toon_sync", metrics.ToonSyncOptions)
