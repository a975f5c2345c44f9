"""The pipeline graph: typed nodes and edges, read from Python or a file, checked and explained.

Nothing here imports torch.
"""

from af_core.graph.checked import Pipeline as Pipeline
from af_core.graph.checked import Stage as Stage
from af_core.graph.explain import Explanation as Explanation
from af_core.graph.explain import explain as explain
from af_core.graph.explain import mermaid as mermaid
from af_core.graph.graph import Edge as Edge
from af_core.graph.graph import Graph as Graph
from af_core.graph.graph import Node as Node
from af_core.graph.reading import parse_overrides as parse_overrides
from af_core.graph.resolve import Checked as Checked
from af_core.graph.resolve import check_pipeline as check_pipeline
from af_core.graph.resolve import open_pipeline as open_pipeline
from af_core.graph.resolve import resolve as resolve
from af_core.graph.spec import PipelineSpec as PipelineSpec
