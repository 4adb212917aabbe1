"""The store is not put where its locks mean nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from collectors.errors import StorageError
from collectors.store.filesystem import file_system_of, require_local

MOUNTS = [
    SimpleNamespace(mountpoint=point, fstype=kind)
    for point, kind in (
        ("/", "ext4"),
        ("/home", "nfs4"),
        ("/home/ann/scratch", "xfs"),
        ("/mnt/far", "fuse.sshfs"),
        ("/mnt/near", "fuse.fuse-overlayfs"),
        ("/data", "ext4"),
        ("/data", "lustre"),
    )
]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/homely/ann", "ext4"),
        ("/home/ann", "nfs4"),
        ("/home/ann/scratch/runs", "xfs"),
        ("/home/ann/scratchy", "nfs4"),
        ("/data/x", "lustre"),
    ],
)
def test_the_longest_mount_point_counts(path: str, kind: str) -> None:
    assert file_system_of(Path(path), MOUNTS) == kind


@pytest.mark.parametrize("path", ["/home/ann", "/mnt/far", "/data/x"])
def test_a_network_file_system_is_refused_with_a_way_out(path: str) -> None:
    with pytest.raises(StorageError, match="network file system") as refused:
        require_local(Path(path), MOUNTS)
    assert "OPSUITE_HOME" in refused.value.remedy


@pytest.mark.parametrize("path", ["/srv", "/home/ann/scratch", "/mnt/near"])
def test_a_local_one_is_taken(path: str) -> None:
    require_local(Path(path), MOUNTS)


def test_a_link_is_followed(tmp_path: Path) -> None:
    far = tmp_path / "far"
    far.mkdir()
    (tmp_path / "link").symlink_to(far)
    mounts = [SimpleNamespace(mountpoint=str(far), fstype="nfs")]
    with pytest.raises(StorageError):
        require_local(tmp_path / "link" / "home", mounts)
