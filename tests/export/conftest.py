import pytest
from exported_models import CATEGORIES, config, detector

from anchor_heads.export import SUFFIXES, describe, export_model


@pytest.fixture(scope="session")
def export(tmp_path_factory):
    """A function that exports a model by name and format, with the options of ``export_model``; it
    returns the path of the file, and writes each once a session."""
    paths = {}

    def export(name, format, **options):
        key = (name, format, *sorted(options.items()))
        if key not in paths:
            folder = tmp_path_factory.mktemp("export")
            cfg = config(name, folder)
            cfg.merge_from_list(options.pop("overrides", []))
            paths[key] = str(folder / f"model{SUFFIXES[format]}")
            export_model(detector(cfg), paths[key], format, describe(cfg, CATEGORIES), **options)
        return paths[key]

    return export


@pytest.fixture(scope="session")
def eager(tmp_path_factory):
    """A function that builds the model that ``export`` exports."""
    return lambda name: detector(config(name, tmp_path_factory.mktemp("eager")))
