"""docs/pipelines.md tells the truth: its file is valid and its keys are those of the spec."""

import re
from pathlib import Path

from af_core.graph import check_pipeline
from af_core.graph.spec import PipelineSpec

DOC = (Path(__file__).parents[2] / "docs" / "pipelines.md").read_text()


def test_the_file_in_the_docs_is_valid(tmp_path):
    (text,) = (t for t in re.findall(r"```yaml\n(.*?)```", DOC, re.S) if "schema_version" in t)
    (tmp_path / "mine.yaml").write_text(text)
    checked = check_pipeline(str(tmp_path / "mine.yaml"))
    assert checked.problems == ()
    assert checked.pipeline.spec.name == "mine"


def test_every_key_of_a_pipeline_is_in_the_docs():
    for key in PipelineSpec.__struct_fields__:
        assert f"`{key}`" in DOC or f"\n{key}: " in DOC or key == "description"
