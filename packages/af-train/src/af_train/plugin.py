"""The objectives of af-train, registered through the hooks of af-core."""

from af_core.plugins import hookimpl
from af_core.plugins.hookspecs import API_VERSION, Register

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
