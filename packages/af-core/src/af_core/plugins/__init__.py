"""The plugin surface: what another package may import to add stages to the SDK."""

from af_core.plugins.contract import BuildContext as BuildContext
from af_core.plugins.contract import StageConfig as StageConfig
from af_core.plugins.hookspecs import API_VERSION as API_VERSION
from af_core.plugins.hookspecs import hookimpl as hookimpl
from af_core.plugins.hookspecs import hookspec as hookspec
from af_core.plugins.loading import load_catalog as load_catalog
from af_core.plugins.registry import Catalog as Catalog
from af_core.plugins.registry import Offer as Offer
from af_core.plugins.registry import PluginRecord as PluginRecord
