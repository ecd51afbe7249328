"""Training on a GPU: precisions, kernels, checkpointing, adapters, compiled blocks, and whole runs."""

from contextlib import nullcontext
from importlib.util import find_spec

import pytest
import torch

from benchmarks.arms import (
    SHAPES,
    Bench,
    Work,
    bidirectional,
    build_model,
    make_rows,
    make_teacher,
    requests_of,
)
from harmonize.cli import main
from harmonize.config.schema.groups import ModelConfig
from harmonize.data import sandbox
from harmonize.data.batch import collate
from harmonize.errors import ModelError
from harmonize.models import lower_right, packing
from harmonize.models.body import answer_hidden
from harmonize.models.frozen import FrozenTeacher
from harmonize.models.head import Head
from harmonize.models.load import enable_checkpointing, load_model
from harmonize.models.lora import apply_peft, is_adapter
from harmonize.models.prefix import SharedPrefix
from harmonize.tracking.results import read_run
from harmonize.unlearning.optimizers import build_optimizer
from harmonize.unlearning.watching import STAGES
from tests.models.tiny import some_rows, tiny
from tests.unlearning.small import small_run

pytestmark = [
    pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning"),  # advice of torch.compile
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch.compile imports old parts of torch
    pytest.mark.filterwarnings(
        "ignore:The .grad attribute:UserWarning"
    ),  # and looks at states that have none
]

LORA = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
WORK = Work(8, 48, 0.4, prefix=40)


def gradients(model, rows, gpu, terms=None) -> dict[str, torch.Tensor]:
    module = Bench(model, terms or bidirectional(), None, teacher=given_teacher(model, rows))
    module.loss(rows).backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def given_teacher(model, rows):
    teacher = make_teacher(model, requests_of(rows, WORK.prefix, SHAPES["tiny"].vocabulary))
    model.train()
    return teacher


def spread(model, scale: float = 0.3):
    """Weights further apart, adapters included, so that every gradient is there."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, scale / parameter.shape[1] ** 0.5 * 3)
    return model


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen3", "gemma2", "gpt2", "phi"])
def test_states_are_those_of_the_processor(gpu, name) -> None:
    """fp32, right-padded without a mask, against left-padded with one, and against the CPU."""
    model, rows = tiny(name), some_rows(6)
    with torch.no_grad():
        on_cpu = answer_hidden(model, collate(rows, 0))
        model.to(gpu)
        for side in ("right", "left"):
            here = answer_hidden(model, collate(rows, 0, side=side, pad_to=8).to(gpu)).cpu()
            torch.testing.assert_close(here, on_cpu, rtol=2e-4, atol=2e-4)


def test_attention_kernels_agree_in_bf16(gpu) -> None:
    model = spread(build_model(SHAPES["tiny"], gpu, torch.bfloat16)).eval()
    batch = collate(make_rows(WORK, 300), 0).to(gpu)
    with torch.no_grad():
        fast = answer_hidden(model, batch).float()
        model.set_attn_implementation("eager")
        plain = answer_hidden(model, batch).float()
    assert float((fast - plain).norm() / plain.norm()) < 2e-2


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_rows_without_padding_are_those_of_a_padded_batch(gpu, name) -> None:
    """torch's own flash kernel in bf16, and row by row in fp32, against SDPA."""
    packing.register()
    for dtype, apart in ((torch.float32, 1e-4), (torch.bfloat16, 3e-2)):
        model = tiny(name).to(gpu, dtype)
        batch = collate(some_rows(6), 0).to(gpu)
        found = {}
        for kernel in ("sdpa", "varlen"):
            model.set_attn_implementation(kernel)
            model.zero_grad()
            states = answer_hidden(model, batch).float()
            direction = torch.randn(states.shape, generator=torch.Generator().manual_seed(0)).to(gpu)
            (states * direction).sum().backward()
            gradient = torch.cat([p.grad.float().flatten() for p in model.parameters() if p.grad is not None])
            found[kernel] = (states.detach(), gradient)
        for a, b in zip(*found.values(), strict=True):
            assert float((a - b).norm() / a.norm()) < apart


def test_bf16_gradients_are_those_of_fp32(gpu) -> None:
    model = spread(build_model(SHAPES["tiny"], gpu, torch.float32))
    rows = make_rows(WORK, 300)
    exact = gradients(model, rows, gpu)
    coarse = gradients(model.bfloat16(), rows, gpu)
    total = sum(float(g.square().sum()) for g in exact.values()) ** 0.5
    apart = sum(float((coarse[n].float() - g).square().sum()) for n, g in exact.items()) ** 0.5
    assert coarse.keys() == exact.keys()
    assert apart / total < 0.1  # the top lists themselves differ where logits are close


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_checkpointed_adapters_all_learn(gpu, dtype) -> None:
    rows = make_rows(WORK, 300)
    found = []
    for checkpointing in (False, True):
        model = build_model(SHAPES["tiny"], gpu, dtype)
        if checkpointing:
            enable_checkpointing(model)
        model = spread(apply_peft(model, LORA).to(dtype)).train()
        found.append(gradients(model, rows, gpu))
        adapters = [n for n, p in model.named_parameters() if is_adapter(n)]
        assert adapters and set(adapters) == set(found[-1])
        assert all(float(g.abs().max()) > 0 for g in found[-1].values())
    for name, gradient in found[0].items():
        torch.testing.assert_close(
            found[1][name], gradient, rtol=1e-2, atol=1e-3 * float(gradient.abs().max())
        )


def test_live_teacher_says_what_the_cache_holds(gpu) -> None:
    model = spread(build_model(SHAPES["tiny"], gpu, torch.float32))
    rows = make_rows(WORK, 300)
    asked = requests_of(rows, WORK.prefix, 300)
    values = []
    for mode, share in (("hidden", True), ("hidden", False), ("none", True)):
        module = Bench(model, bidirectional(), None, teacher=make_teacher(model, asked, mode, share))
        model.train()
        values.append(float(module.loss(rows).detach()))
    assert values[0] > 1e-3
    assert values[1] == pytest.approx(values[0], rel=2e-3)
    assert values[2] == pytest.approx(values[0], rel=2e-3)


@pytest.mark.parametrize("apart", [True, False], ids=["merged", "lower right"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("heads", [(8, 2), (4, 4)], ids=["groups", "heads"])
def test_attention_behind_a_beginning_is_that_of_the_definition(
    gpu, monkeypatch, dtype, heads, apart
) -> None:
    torch.manual_seed(0)
    many, groups = heads
    query = torch.randn(3, many, 17, 64, device=gpu, dtype=dtype)
    key, value = (torch.randn(3, groups, 17, 64, device=gpu, dtype=dtype) for _ in "kv")
    before = tuple(torch.randn(1, groups, 40, 64, device=gpu, dtype=dtype) for _ in "kv")
    real = lower_right.merges
    if gpu.type == "cuda" and torch.cuda.get_device_capability() >= (9, 0) and dtype == torch.bfloat16:
        assert real(query, key)
    monkeypatch.setattr(lower_right, "merges", lambda *a: apart and real(*a))
    found, _ = lower_right.attention(torch.nn.Identity(), query, key, value, None, scaling=0.2, before=before)
    keys, values = (
        torch.cat([b.expand(3, -1, -1, -1), x], 2).double().repeat_interleave(many // groups, 1)
        for b, x in zip(before, (key, value), strict=True)
    )
    scores = 0.2 * query.double() @ keys.transpose(2, 3)
    seen = torch.ones(17, 57, dtype=torch.bool, device=gpu).tril(40)
    expected = (scores.masked_fill(~seen, float("-inf")).softmax(-1) @ values).transpose(1, 2)
    assert found.shape == expected.shape and found.dtype == dtype
    assert float((found - expected).norm() / expected.norm()) < (1e-2 if dtype == torch.bfloat16 else 1e-5)


def test_a_beginning_read_once_gives_the_same_states(gpu) -> None:
    """Of a model in bf16, through its own attention layers."""
    model = spread(build_model(SHAPES["tiny"], gpu, torch.bfloat16)).eval()
    asked = requests_of(make_rows(WORK, 300), WORK.prefix, 300)
    found = [
        torch.cat(FrozenTeacher(model, nullcontext, 0, 4, share).hidden(asked)).float()
        for share in (True, False)
    ]
    assert float((found[0] - found[1]).norm() / found[1].norm()) < 2e-2
    past = SharedPrefix().keys_of(model, asked[0].prompt[: WORK.prefix])
    assert past.maskless == (gpu.type == "cuda")


def test_the_cache_is_keyed_by_precision_and_device(gpu, tmp_path) -> None:
    from harmonize.models.teacher import build_teacher_cache

    def path(device, dtype):
        model = build_model(SHAPES["tiny"], device, dtype)
        cache = build_teacher_cache(
            model,
            Head.of(model),
            requests_of(make_rows(WORK, 300), 8, 300),
            digest="d",
            renderer_digest="r",
            end_id=2,
            stop_ids=[2],
            pad_id=0,
            max_new_tokens=1,
            mode="hidden",
            top_k=8,
            cache_dir=tmp_path,
        )
        return cache.path

    cpu = torch.device("cpu")
    paths = {path(gpu, torch.float32), path(gpu, torch.bfloat16), path(cpu, torch.float32)}
    assert len(paths) == (3 if gpu.type == "cuda" else 2)
    assert path(gpu, torch.bfloat16) in paths


def test_fused_optimizer_takes_the_same_step(gpu) -> None:
    node = {"_target_": "torch.optim.AdamW", "lr": 1e-2, "fused": None}
    made = []
    for device in ("cpu", gpu):
        torch.manual_seed(0)
        weight = torch.nn.Parameter(torch.randn(8, 8).to(device))
        optimizer = build_optimizer(node, [weight])
        for _ in range(3):
            optimizer.zero_grad()
            weight.sin().sum().backward()
            optimizer.step()
        made.append((weight.detach().cpu(), optimizer.defaults["fused"]))
    assert made[0][1] is None and made[1][1] is (True if gpu.type == "cuda" else None)
    torch.testing.assert_close(made[0][0], made[1][0], rtol=1e-5, atol=1e-6)


def test_compiled_blocks_say_the_same(gpu) -> None:
    model = spread(build_model(SHAPES["tiny"], gpu, torch.float32))
    rows = make_rows(WORK, 300)
    teacher = given_teacher(model, rows)
    plain = Bench(model, bidirectional(), torch.optim.SGD(model.parameters(), lr=0.0), teacher=teacher)
    fast = Bench(
        model,
        bidirectional(),
        torch.optim.SGD(model.parameters(), lr=0.0),
        teacher=teacher,
        compile_blocks=True,
    )
    expected = plain.loss(rows).detach()
    with fast._compiled:
        assert "forward" in vars(model.model.layers[0])
        torch.testing.assert_close(fast.loss(rows).detach(), expected, rtol=1e-3, atol=1e-5)
    fast.step(rows, torch.float32)()
    assert "forward" not in vars(model.model.layers[0])


def test_four_bits_need_their_library(gpu, shared) -> None:
    cfg = ModelConfig(name_or_path=str(shared / "models" / "stories260k"), dtype="bfloat16")
    four = {**LORA, "load_in_4bit": True}
    if find_spec("bitsandbytes") is None:
        with pytest.raises(ModelError, match=r"harmonize\[qlora\]|CUDA GPU"):
            load_model(cfg, four)
        return
    model = load_model(cfg, four).model
    hidden = answer_hidden(model, collate(some_rows(4), 0).to(gpu))
    hidden.float().square().sum().backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if is_adapter(n))


RUNS = {
    "fp32": (),
    "bf16-mixed": ("trainer.precision=bf16-mixed",),
    "16-mixed": ("trainer.precision=16-mixed", "trainer.max_steps=8"),
    "bf16-true": ("trainer.precision=bf16-true", "model.dtype=bfloat16"),
    "lora, bf16-true": ("trainer.precision=bf16-true", "model.dtype=bfloat16", "peft=lora", "peft.r=4"),
    "lora, checkpointing": ("peft=lora", "peft.r=4", "model.gradient_checkpointing=true"),
    "compiled": ("trainer.compile=true", "trainer.max_tokens_per_batch=256"),
    "not deterministic": ("trainer.deterministic=false",),
}


CASES = [("npo", name) for name in RUNS] + [("grad_diff_kl", "bf16-mixed"), ("rmu", "bf16-true")]


@pytest.mark.parametrize(("method", "name"), CASES)
def test_a_small_model_trains(gpu, shared, tmp_path, name, method) -> None:
    if name == "16-mixed" and gpu.type != "cuda":
        pytest.skip("refused on a processor")
    place = ("trainer.accelerator=gpu", "model.device=cuda") if gpu.type == "cuda" else ()
    run = small_run(shared, tmp_path, f"method={method}", *place, *RUNS[name])
    assert any(not torch.equal(v, run.trained[n].to(v.device, v.dtype)) for n, v in run.start.items())
    assert all(bool(v.isfinite().all()) for v in run.trained.values())


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("peft=lora", "peft.r=8"),
        ("trainer.precision=bf16-true", "model.dtype=bfloat16"),
        ("teacher.cache=none",),
        ("teacher.cache=none", "peft=lora", "trainer.precision=bf16-true", "model.dtype=bfloat16"),
    ],
    ids=["bf16-mixed", "lora", "bf16-true", "live", "live, lora"],
)
def test_a_whole_run(gpu, tmp_path, monkeypatch, capsys, more) -> None:
    """Target, gold, teacher, training, evaluation and export of the sandbox, all on the GPU."""
    monkeypatch.chdir(tmp_path)
    short = {**sandbox.recipe("sandbox_easy"), "steps": 300}  # how well it learns is not the question here
    monkeypatch.setattr(sandbox, "recipe", lambda _: short)
    place = "trainer=gpu" if gpu.type == "cuda" else "trainer=cpu"
    options = ["dataset=sandbox_easy", "method=bidirectional", place, "debug=fast", "trainer.max_steps=20"]
    options += [
        f"paths.cache_dir={tmp_path.parent / 'gpu-cache'}",
        "study=gpu",
        "job=one",
        "logger=csv",
        *more,
    ]
    with pytest.raises(SystemExit) as ended:
        main(["unlearn", *options])
    said = capsys.readouterr()
    assert not ended.value.code, said.out + said.err
    folder = tmp_path / "runs" / "gpu" / "one"
    run = read_run(folder)
    assert run.status["state"] == "done"
    assert run.results.metrics["forget_accuracy"].value is not None
    assert (folder / "model" / "model.safetensors").exists()


def test_a_profile(gpu, shared, tmp_path, capsys) -> None:
    """A line for every stage, timed by the device."""
    place = ("trainer=gpu", "model.device=cuda") if gpu.type == "cuda" else ("trainer=cpu",)
    options = [
        "dataset=tofu",
        f"dataset.root={shared / 'data' / 'tofu'}",
        "model=hf",
        f"model.name_or_path={shared / 'models' / 'stories260k'}",
        f"paths.cache_dir={tmp_path / 'cache'}",
        "teacher.max_new_tokens=4",
        *place,
    ]
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as ended:
        main(["profile", "--steps", "3", f"--out={out}", *options])
    said = capsys.readouterr()
    assert not ended.value.code, said.out + said.err
    table = (out / "table.md").read_text()
    assert "Mean of 3 steps" in table and all(f"| {stage} " in table for stage in STAGES)
    assert ("CPU ms" in table) == (gpu.type == "cpu"), table
