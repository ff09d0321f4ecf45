"""The YAML files are found through a link, and through a text file that Git left in place of the link."""

from peftbench.common.config_files import find_configs
from peftbench.config import CONFIGS


def package(root):
    (root / "configs").mkdir()
    (root / "configs" / "train.yaml").write_text("seed: 0\n")
    (root / "src" / "package").mkdir(parents=True)
    return root / "src" / "package"


def test_ours_are_found():
    assert (CONFIGS / "train.yaml").is_file()


def test_a_link_is_followed(tmp_path):
    place = package(tmp_path)
    (place / "configs").symlink_to("../../configs", target_is_directory=True)
    assert (find_configs(place) / "train.yaml").is_file()


def test_a_link_that_was_checked_out_as_text_is_followed(tmp_path):
    place = package(tmp_path)
    for text in ("../../configs", "../../configs\n"):
        (place / "configs").write_text(text)
        assert find_configs(place) == tmp_path.resolve() / "configs"
