"""The quick ways from Adam's second moments to the prox of L1."""

import shutil

import pytest
import torch

import l1torch

STRENGTH = 0.3


@pytest.mark.skipif(not shutil.which("c++"), reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's, while it compiles
@pytest.mark.parametrize(
    "make", [torch.optim.AdamW, torch.optim.RMSprop, torch.optim.SGD]
)
@pytest.mark.parametrize("strength", [STRENGTH, torch.tensor(STRENGTH)])
def test_the_fused_kernel_takes_the_same_step(make, strength):
    torch.manual_seed(0)
    start, slope = torch.randn(2, 90, 100)
    results = []
    for fused in (False, True):
        w = torch.nn.Parameter(start.clone())
        small = torch.nn.Parameter(start[:2, :2].clone())
        base = make([("w", w), ("small", small)], lr=0.03)
        optimizer = l1torch.Proximal(base, strength, fused=fused)
        for i in range(6):
            w.grad, small.grad = slope / (1 + i), slope[:2, :2] / (1 + i)
            optimizer.step()
        results.append((w.detach(), small.detach()))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        assert torch.equal(a == 0, b == 0)
    assert 0.01 < (results[0][0] == 0).float().mean() < 0.99


@pytest.mark.skipif(not shutil.which("c++"), reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_the_fused_kernel_gives_way_to_the_plain_one():
    """torch compiles a function for so many kinds of input and no more."""
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        for shape in ((64, 65), (16, 16, 17), (8, 8, 8, 9)):
            for order in (1, -1):
                w = torch.ones(shape, dtype=dtype).permute(*range(len(shape))[::order])
                w = torch.nn.Parameter(w)
                base = torch.optim.Adam([("w", w)], lr=0.01)
                optimizer = l1torch.Proximal(base, 0.5, fused=True)
                w.grad = torch.ones_like(w)
                optimizer.step()
                expected = 1 - 0.01 - 0.01 * 0.5
                assert (w.float() - expected).abs().max() < 0.01


def test_memory_kept_from_inference_mode_serves_later():
    for mode in (True, False):
        with torch.inference_mode(mode):
            w = torch.nn.Parameter(torch.ones(8, 8))
            w.grad = torch.ones_like(w)
            l1torch.Proximal(torch.optim.Adam([("w", w)], lr=0.1), 0.5).step()
            assert (w < 1).all()
