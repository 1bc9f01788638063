"""Compilation: a clean way back to eager code, and the same numbers where it works."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mpc import Plan, Problem, shift
from mpc.compilation import _warn_of_missing_compiler, compiled, compiler
from world_models import Batch, LatentModel, LossConfig, ModelConfig, Trainer

slow = pytest.mark.skipif(
    compiler() is None or os.environ.get("TELIC_TEST_COMPILE") != "1",
    reason="needs a C++ compiler and a minute: set TELIC_TEST_COMPILE=1",
)


def test_without_a_compiler_code_runs_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert compiler() is None
    _warn_of_missing_compiler.cache_clear()

    def double(x: int) -> int:
        return 2 * x

    assert compiled(double) is double and compiled(double) is double
    assert caplog.text.count("no C++ compiler") == 1
    caplog.clear()
    assert compiled(double, enabled=False) is double and not caplog.text


def test_a_failing_compiler_costs_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries = []

    def broken(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            tries.append(args)
            raise torch._dynamo.exc.TorchDynamoException("g++ is broken\nand says more")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr("mpc.compilation.compiler", lambda: "g++")
    fast = compiled(lambda x: 2 * x)
    assert [fast(i) for i in range(3)] == [0, 2, 4]
    assert len(tries) == 1 and caplog.text.count("g++ is broken") == 1
    assert "and says more" not in caplog.text


def test_gradients_are_compiled_where_a_failure_can_be_forgiven(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the function and not in `backward`, which is out of reach."""
    config = torch._functorch.config
    monkeypatch.setattr(torch, "compile", lambda function, **options: lambda: function())
    monkeypatch.setattr("mpc.compilation.compiler", lambda: "g++")
    assert compiled(lambda: config.force_non_lazy_backward_lowering)() is True
    assert config.force_non_lazy_backward_lowering is False


@pytest.mark.parametrize(("device", "in_cpp"), [("cpu", True), ("meta", False)])
def test_code_that_calls_kernels_is_cpp_on_a_cpu_alone(
    device: str, in_cpp: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first call tells the device."""
    given: list[dict[str, Any]] = []

    def record(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        given.append(options["options"])
        return function

    monkeypatch.setattr(torch, "compile", record)
    monkeypatch.setattr("mpc.compilation.compiler", lambda: "g++")
    fast = compiled(lambda scale, x: scale * x)
    for _ in range(2):
        fast(2.0, torch.zeros(1, device=device))
    assert given == [{"cpp_wrapper": in_cpp}]


def test_what_a_cuda_graph_returns_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next replay writes into the same memory."""
    memory = torch.zeros(2)

    def replay(value: float) -> tuple[Tensor, list[Tensor]]:
        memory.fill_(value)
        return memory, [memory]

    given: list[dict[str, Any]] = []

    def record(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        given.append(options["options"])
        return function

    monkeypatch.setattr(torch, "compile", record)
    monkeypatch.setattr("mpc.compilation.compiler", lambda: "g++")
    monkeypatch.setattr("mpc.compilation._device_type", lambda arguments: "cuda")
    fast = compiled(replay)
    first, [same] = fast(1.0)
    fast(2.0)
    assert given == [{"triton.cudagraphs": True}]
    assert first.tolist() == same.tolist() == [1.0, 1.0]


def test_one_thread_compiles_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that trace with autocast can lock each other out, and nothing ends the wait."""
    tracing, most = 0, 0

    def trace(x: Tensor) -> Tensor:
        nonlocal tracing, most
        tracing += 1
        most = max(most, tracing)
        time.sleep(0.05)
        tracing -= 1
        return x

    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    monkeypatch.setattr("mpc.compilation.compiler", lambda: "g++")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: compiled(trace)(torch.zeros(1)), range(4)))
    assert most == 1


@slow
def test_gradients_are_compiled_with_what_takes_them(caplog: pytest.LogCaptureFixture) -> None:
    """None is left to autograd, whose steps hold the interpreter's lock."""
    weight = nn.Parameter(torch.linspace(-1.0, 1.0, 6).view(2, 3))

    def gradient(x: Tensor) -> tuple[Tensor, Tensor]:
        loss = torch.tanh(x @ weight).square().sum()
        return loss.detach(), torch.autograd.grad(loss, [weight])[0]

    x = torch.linspace(0.0, 1.0, 8).view(4, 2)
    expected = gradient(x)
    breaks = torch._dynamo.utils.counters["graph_break"]
    breaks.clear()
    for found in (compiled(gradient)(x), compiled(gradient)(x)):
        torch.testing.assert_close(found, expected)
    assert not breaks
    assert not [r for r in caplog.records if r.name.startswith("mpc")]


def test_mistakes_in_compiled_code_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a failing compiler is forgiven, not an error of the function itself."""
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    monkeypatch.setattr("mpc.compilation.compiler", lambda: "g++")

    def wrong(x: Tensor) -> Tensor:
        raise ValueError("a mistake")

    with pytest.raises(ValueError, match="a mistake"):
        compiled(wrong)(torch.zeros(1))


@slow
@pytest.mark.parametrize(("precision", "loose"), [("float32", 1.0), ("bfloat16", 100.0)])
def test_compiled_losses_equal_eager_ones(precision: str, loose: float) -> None:
    """In bfloat16, whose numbers have a relative error of 0.004, compiled code rounds less."""
    rng = torch.Generator().manual_seed(0)
    shape = (3, 8)
    batches = [
        Batch(
            torch.randn(4, 8, 2, generator=rng),
            2 * torch.rand(*shape, 1, generator=rng) - 1,
            torch.randn(shape, generator=rng),
            (torch.rand(shape, generator=rng) < 0.2).float(),
        )
        for _ in range(3)
    ]
    courses, weights = [], []
    for fast in (False, True):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = LatentModel(2, 1, ModelConfig(latent_dim=8, hidden_dim=16, simplex=4, bins=21))
        trainer = Trainer(
            model, LossConfig(horizon=3, compile=fast, precision=precision), 0.9, seed=0
        )
        courses.append(torch.stack([trainer.update(batch) for batch in batches]))
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(courses[1], courses[0], rtol=1e-4 * loose, atol=1e-5 * loose)
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-3 * loose, atol=1e-4 * loose)


@slow
@pytest.mark.parametrize("name", ["cem", "random_shooting", "gradient", "grasp"])
def test_compiled_plans_equal_eager_ones(
    name: str, latent_task: Problem, plan: Callable[..., Plan], caplog: pytest.LogCaptureFixture
) -> None:
    """Cold and warm, and without a word about a failed compilation."""
    task = replace(latent_task, horizon=3)
    eager = plan(name, task)
    warm = shift(eager.warm_start)
    for start in (None, warm):
        expected, found = plan(name, task, start), plan(name, task, start, compile=True)
        torch.testing.assert_close(found.actions, expected.actions, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.cost, expected.cost, rtol=1e-4, atol=1e-5)
        assert found.diagnostics.forward_calls == expected.diagnostics.forward_calls
    assert not [r for r in caplog.records if r.name.startswith("mpc")]
