import time

import pytest
import torch

from parity_tests import distributed_workers as workers


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_processes_equal_one(kind, tmp_path):
    processes = torch.multiprocessing.spawn(
        workers.worker, (kind, str(tmp_path)), nprocs=2, join=False
    )
    deadline = time.monotonic() + 120
    while not processes.join(timeout=5):  # raises what a process raised
        if time.monotonic() > deadline:
            for process in processes.processes:
                process.kill()
            pytest.fail("the processes did not end")
    for wrapper in workers.WRAPPERS:
        found = torch.load(tmp_path / f"{wrapper}.pt")
        expected = workers.single(wrapper)
        assert found.keys() == expected.keys()
        for name, weight in expected.items():
            torch.testing.assert_close(found[name], weight, rtol=1e-12, atol=1e-12)
            assert torch.equal(found[name] == 0, weight == 0)
        zeros = sum(int((w == 0).sum()) for w in expected.values())
        assert (zeros > 5) == (wrapper != "subgradient")
        assert zeros < 80  # of 93: something is left to differ
