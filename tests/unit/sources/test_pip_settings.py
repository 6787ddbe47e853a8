"""Which indexes, certificates and proxy the user's own pip is set to."""

import os

from toolkit import downloads, pip_settings


def test_pip_settings_come_from_files_and_the_environment_wins(tmp_path, monkeypatch):
    (tmp_path / "pip.conf").write_text(
        "[global]\nindex-url = http://one/simple\ncert = ~/ca.pem\nextra_index_url =\n    http://two/simple\n"
        "    http://three/simple\n[install]\ntrusted-host = two\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    found = pip_settings.pip_settings()
    assert found.indexes == ("http://one/simple", "http://two/simple", "http://three/simple")
    assert found.cert == os.path.expanduser("~/ca.pem")
    assert found.trusted_hosts == ("two",)
    monkeypatch.setenv("PIP_INDEX_URL", "http://four/simple")
    monkeypatch.setenv("PIP_CERT", "/five.pem")
    found = pip_settings.pip_settings()
    assert found.indexes[0] == "http://four/simple"
    assert found.cert == "/five.pem"


def test_without_settings_the_default_index_is_meant():
    assert pip_settings.pip_settings() == pip_settings.PipSettings(indexes=("",))


def test_certificates_of_pip_are_used(monkeypatch):
    monkeypatch.setenv("PIP_CERT", "/our/ca.pem")
    monkeypatch.setenv("PIP_TRUSTED_HOST", "inner.example")
    with downloads.session() as opened:
        assert opened.verify == "/our/ca.pem"
        assert isinstance(opened.get_adapter("https://inner.example/x"), downloads._Unverified)
        assert not isinstance(opened.get_adapter("https://outer.example/x"), downloads._Unverified)
