"""The side nets that pool: attentive probes and the MLP head, and what holds for every net with features of its own."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import peftbench
from peftbench import deltas
from peftbench.models.joint import JointModel
from peftbench.models.kept_taps import shapes_of_kept_taps
from peftbench.sweeps.grouping import joint_signature
from support.backbones import composed, on_meta, parameters
from support.backbones import method as method_of
from support.finished_runs import pictures, same
from support.processes import one_and_two_processes
from support.runs import SMALL, learned
from support.side import FAMILIES, batch, make, optimizer, step
from support.stops import interrupted_and_undisturbed

FORMS = ("attentive", "attentive method.form=aim", "attentive method.form=vjepa", "mlp")
LAYOUTS = ("vit", "registers", "resnet", "swin")
PAIRS = [
    pytest.param(
        form, family, marks=() if (form, family) in set(zip(FORMS, LAYOUTS, strict=True)) else pytest.mark.slow
    )
    for form in FORMS
    for family in FAMILIES
]


def of(form, family, *words, seed=None, **changed):
    """A model in training mode; with a seed, nothing in its side net starts at zero or alike."""
    name, *more = form.split()
    model = make(name, family, *more, *words, **changed)
    if seed is not None:
        torch.manual_seed(seed)
        for parameter in model.side.parameters():
            parameter.data += torch.randn_like(parameter) * 0.2
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "options", "counts"),
    [  # ViT-B/16, ViT-S/16, Swin-B, ResNet-50, ConvNeXt-B, hybrid_nano
        ("attentive", {}, (614_400, 159_744, 1_081_344, 4_259_840, 1_081_344, 112_640)),
        # an eighth of ViT-S/16 is 48 wide, of hybrid_nano 40: 24 and 20 queries
        ("attentive", {"reduction": 8}, (98_304, 27_648, 163_840, 589_824, 163_840, 19_200)),
        ("attentive", {"form": "aim"}, (1_180_416, 295_296, 2_098_176, 8_390_656, 2_098_176, 205_120)),
        ("attentive", {"form": "vjepa"}, (7_088_640, 1_774_848, 12_597_248, 50_360_320, 12_597_248, 1_233_280)),
        ("mlp", {}, (1_184_256, 297_216, 2_103_296, 8_400_896, 2_103_296, 206_720)),
    ],
)
def test_exact_counts(method, options, counts):
    words = [f"method.{key}={value}" for key, value in options.items()]
    convnext = peftbench.config.Backbone("convnext_base", pretrained=False)
    specs = [composed(f"backbone={name}").backbone for name in ("vit_b", "vit_s", "swin_b", "resnet50")]
    specs += [convnext, composed("backbone=hybrid_nano").backbone]
    assert tuple(parameters(method_of(method, *words), on_meta(spec)) for spec in specs) == counts


@pytest.mark.parametrize("reduction", [1, 4])
def test_queries_of_zero_give_the_value_of_the_mean_token(reduction):
    side = of("attentive", "vit", f"method.reduction={reduction}", "method.queries=4").side.double().eval()
    nn.init.zeros_(side.queries)
    tokens = torch.randn(3, 17, 48, dtype=torch.float64)
    assert torch.allclose(side([tokens])[0] * (1 + 1e-6) ** 0.5, side.value(tokens[:, 1:].mean(1)), atol=1e-14)


def positions(tap, side):
    return tap.flatten(2).mT if side.layout == "NCHW" else tap.flatten(1, -2)[:, side.first :]


def attention(queries, keys, values, heads):
    """Of every head, as written down: queries (B, Q, d), keys and values (B, N, d)."""
    q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (queries, keys, values))
    weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("family", LAYOUTS)
def test_each_form_is_the_attention_that_is_written_down(family):
    """Keys and values of every token, which the nets never compute."""
    tap = None
    for form in FORMS[:3]:
        side = of(form, family, "method.queries=4", seed=1).side.double()
        tap = torch.randn(3, *make("linear", family).backbone.facts.taps[-1].shape, dtype=torch.float64)
        x = positions(tap, side)
        queries = side.queries.expand(3, -1, -1)
        if "aim" in form:
            x = F.batch_norm(x.flatten(0, 1), None, None, training=True, eps=1e-6).view(x.shape)
            expected = attention(queries, side.key(x), side.value(x), side.heads).mean(1)
        elif "vjepa" in form:
            keys, values = side.kv(side.norm1(x)).chunk(2, -1)
            q = queries + side.proj(attention(side.query(queries), keys, values, side.heads))
            expected = (q + side.mlp(side.norm2(q))).mean(1)
        else:
            weights = (side.queries @ x.mT / x.shape[-1] ** 0.5).softmax(-1)
            each = (weights @ side.value(x)).unflatten(2, (4, -1))
            chunks = torch.stack([each[:, m, m] for m in range(4)], 1).flatten(1)
            expected = F.batch_norm(chunks, None, None, training=True, eps=1e-6)
        (features,) = side([tap])
        assert features.shape == (3, side.width)
        assert torch.allclose(features, expected, atol=1e-10)


def test_the_mlp_is_the_one_that_is_written_down():
    model = of("mlp", "resnet", "method.layers=4", "method.dropout=0", seed=2)
    features = torch.randn(5, model.side.width)
    expected = features
    for layer in model.side.layers:
        hidden = (expected @ layer.linear.weight.T + layer.linear.bias).clamp_min(0)
        expected = F.batch_norm(hidden, None, None, layer.norm.weight, layer.norm.bias, training=True)
    assert len(model.side.layers) == 3
    assert torch.allclose(model.side([features])[0], expected, atol=1e-5)


def test_dropout_drops_its_share_in_training_alone_and_keeps_the_mean():
    layer = of("mlp", "vit", "method.dropout=0.25").side.layers[0]
    torch.manual_seed(0)
    x, drawn = torch.randn(512, 48), torch.rand(512, 48)
    dropped = layer(x, drawn)
    assert ((dropped == 0).float().mean() - 0.25).abs() < 0.02
    layer.norm.momentum = 1.0
    layer(x, drawn)
    assert (layer.eval()(x, drawn) != 0).all()


@pytest.mark.parametrize("form", FORMS[:3])
def test_patches_have_no_order_and_other_tokens_are_read_where_asked(form):
    def features(tap, *words):
        return of(form, "registers", *words, seed=3).side.eval()([tap])[0]

    tap = torch.randn(2, 5 + 9, 48)
    mixed = torch.cat([tap[:, :5], tap[:, 5 + torch.randperm(9)]], 1)
    other = torch.cat([torch.randn(2, 5, 48), tap[:, 5:]], 1)
    assert torch.allclose(features(mixed), features(tap), atol=1e-5)
    assert torch.equal(features(other), features(tap))
    assert not torch.allclose(features(other, "method.tokens=all"), features(tap, "method.tokens=all"), atol=1e-3)


@pytest.mark.parametrize(("form", "family"), PAIRS)
def test_it_trains_beside_a_backbone_that_does_not_move_and_is_kept_whole(form, family):
    model = of(form, family)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    kept = model.frozen(batch(model)[0])
    opt = optimizer(model)
    torch.manual_seed(7)
    first = step(model, opt)
    assert all(p.grad is not None and p.grad.any() for _, p in model.trainable()), "every tensor trains"
    assert all(p.grad is None for p in model.backbone.parameters())
    after = model.state_dict()
    moved = {n for n, t in before.items() if not torch.equal(t, after[n])}
    assert {n.split(".")[0] for n in moved} == {"side", "task"}
    statistics = {
        n for n in after if n.startswith("side") and n.rpartition(".")[2].startswith(("running", "num_batches"))
    }
    assert statistics <= moved, "its own norms are not frozen"
    assert bool(statistics) == ("vjepa" not in form)
    assert deltas.changed_tensors(after, model.start()).keys() >= {n for n in after if not n.startswith("backbone")}
    again = of(form, family)
    torch.manual_seed(7)
    assert step(again, optimizer(again), kept) == first, "kept taps train to the same bits"
    model.eval()
    assert torch.equal(model(batch(model)[0]), model(batch(model)[0]))


def test_what_is_kept_is_what_is_read():
    """The pooled vector for the MLP; the last tap for queries, under the name that the linear probe's has."""
    config = peftbench.compose("backbone=vit_nano", "data=digits")
    for form, family in (("mlp", "vit"), ("mlp", "efficientnet")):
        model = of(form, family)
        (shape,) = shapes_of_kept_taps(config, model)
        (features,) = model.frozen(batch(model)[0])
        assert shape.shape[1:] == features.shape[1:] == (model.backbone.facts.width,)
        assert torch.equal(features, model.backbone.pool(model.backbone.taps(model.frames(batch(model)[0]), (-1,))[0]))
    attentive, linear = of("attentive", "vit"), make("linear", "vit")
    assert (attentive.side.condensed, attentive.kept) == (linear.side.condensed, linear.kept)


@pytest.mark.parametrize("form", FORMS)
def test_together_each_net_computes_what_it_does_alone(form):
    """Other queries, other tokens, other depths and rates of dropout: losses and gradients are each one's own."""
    options = {"mlp": (["method.layers=4"], ["method.dropout=0.3"], ["method.dropout=0"])}
    words = options.get(form, ([], ["method.queries=4"], ["method.queries=8"]))
    models = [of(form, "vit", *more, seed=i) for i, more in enumerate(words)]
    joint = JointModel(models)
    kept = joint.frozen(batch(models[0])[0])
    torch.manual_seed(5)
    losses = joint.loss(batch(models[0]), kept)
    losses.sum().backward()
    together = [[p.grad.clone() for _, p in m.trainable()] for m in models]
    for loss, model, gradients in zip(losses, models, together, strict=True):
        model.zero_grad()
        torch.manual_seed(5)
        alone = model.loss(batch(model), kept)
        alone.backward()
        assert torch.allclose(alone, loss, atol=1e-6)
        assert all(torch.allclose(p.grad, g, atol=1e-6) for (_, p), g in zip(model.trainable(), gradients, strict=True))
    if form == "attentive":
        pair = [of(form, "vit", f"method.tokens={tokens}", seed=1) for tokens in ("all", "patches")]
        one, other = JointModel(pair).loss(batch(pair[0]), kept)
        assert one != other
        assert torch.allclose(other, pair[1].loss(batch(pair[1]), kept))


def test_what_draws_goes_together_with_its_own_seed_alone():
    def sign(*words):
        words = ["backbone=vit_nano", "data=digits", "data.order_seed=0", *words]
        return joint_signature(peftbench.compose(*words))

    assert sign("method=mlp") == sign("method=mlp", "method.layers=2") != sign("method=mlp", "seed=1")
    assert sign("method=attentive") == sign("method=attentive", "seed=1") != sign("method=attentive", "method.form=aim")


@pytest.mark.parametrize("form", ["attentive", "mlp"])
def test_a_batch_of_one_image_trains(form):
    model = of(form, "vit")
    images, labels = batch(model)
    before = {n: t.clone() for n, t in model.side.named_buffers()}
    model.loss((images[:1], labels[:1])).backward()
    assert all(p.grad is not None for _, p in model.trainable())
    assert same(before, dict(model.side.named_buffers()))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["method.queries=5"], "method.queries=5: shares out 128 features of vit_tiny_patch16_224; expected a divisor "
         "of that, such as 4"),
        (["method.queries=0"], "method.queries=0: expected at least 1"),
        (["method.reduction=5"], "method.reduction=5: the last tap of vit_tiny_patch16_224 is 128 wide"),
        (["method.reduction=8", "method.queries=32"], "method.queries=32: shares out 16 features"),
        (["method.heads=4"], "method.heads=4: method.form=efficient has no heads"),
        (["method.form=aim", "method.heads=3"], "method.heads=3: shares out 128 channels"),
        (["method.form=vjepa", "method.reduction=2"], "method.reduction=2: is of method.form=efficient alone"),
        (["method=mlp", "method.layers=1"], "method.layers=1: counts the head"),
        (["method=mlp", "method.dropout=1.0"], "method.dropout=1.0: expected a share"),
        (["data=digits_det"], "method=attentive: pools the features itself, to one vector an image, and "
         "task=detection needs the backbone's feature maps; take linear, losa, cst or lst, which leave it these."),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_sentence(words, told, cli):
    words = ["method=attentive", "backbone=vit_nano", "data=digits", *words]
    status, _, err = cli(*{w.partition("=")[0]: w for w in words}.values(), "trainer.max_batches=1")
    assert status == 2
    assert told in err
    assert err.count("\n") == 1


def test_features_without_positions_are_refused():
    backbone = on_meta(composed("backbone=vit_nano").backbone)
    last = dataclasses.replace(backbone.facts.taps[-1], layout="NC", shape=(64,), grid=None)
    backbone.facts = dataclasses.replace(backbone.facts, taps=(last,))
    with pytest.raises(peftbench.Refusal, match="which has no positions to attend to; method=mlp and method=linear"):
        method_of("attentive").check(backbone)


def test_every_net_with_features_of_its_own_is_declared():
    from peftbench.common.config_files import names
    from peftbench.config import CONFIGS
    from peftbench.methods.base import Plan

    for name in names("method", [CONFIGS]):
        method = method_of(name)
        side = method.adapt(on_meta(composed("backbone=vit_nano").backbone), Plan()) if method.side else None
        assert method.pools == (side is not None and side.width is not None), name


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    data = f"data.root={pictures(tmp_path_factory.mktemp('pictures'))}"
    more = ["data.val_fraction=0.25", "data.batch_size=16", "trainer.max_batches=2", "logger=none"]
    return [*SMALL, "data=folder", data, *more, "backbone=vit_nano", "data.size=null"]


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_a_run_resumes_to_the_same_bits_loads_and_is_exported(form, words, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    from peftbench.tuned.export.files import export

    words = [*words, *f"method={form}".split(), "trainer.epochs=3"]
    resumed, undisturbed = interrupted_and_undisturbed(tmp_path, monkeypatch, *words, at=3)
    assert same(learned(resumed), learned(undisturbed))
    assert resumed.metrics == undisturbed.metrics
    data = next(w.partition("=")[2] for w in words if w.startswith("data.root="))
    tuned = [peftbench.load(record.folder) for record in (resumed, undisturbed)]
    pixels = torch.stack([tuned[0].transform(path) for path in sorted(Path(data).glob("test/*/*.png"))])
    logits = [one(pixels) for one in tuned]
    assert torch.equal(*logits)
    assert export(resumed.folder, "onnx").difference < 1e-4
    assert export(resumed.folder, "torch_export").difference < 1e-4
    shared = peftbench.MultiTask(None, {"one": resumed.folder, "other": undisturbed.folder})
    assert all(torch.equal(answer, logits[0]) for answer in shared(pixels).values())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["attentive", "mlp"])
def test_streamed_and_kept_taps_give_the_same_figures(method, tiny, tmp_path):
    plain = [w for w in tiny if "pretrained" not in w] + [f"method={method}"]
    ways = ([], ["backbone.stream=true"], ["taps=memory"], ["taps=disk", f"taps.dir={tmp_path / 'taps'}"])
    records = [
        peftbench.run(peftbench.compose(*plain, *more, f"output_dir={tmp_path / str(i)}"))
        for i, more in enumerate(ways)
    ]
    assert all(r.status == "complete" for r in records)
    assert all(r.metrics == records[0].metrics for r in records)
    assert all(same(learned(r), learned(records[0])) for r in records)


@pytest.mark.slow
@pytest.mark.parametrize("more", [["method=attentive"], ["method=mlp", "method.dropout=0"]], ids=" ".join)
def test_two_processes_train_as_one_does(more, words, tmp_path):
    """Statistics are of both processes' halves of a batch."""
    words = [*words, *more, "trainer.epochs=2", "optimizer=sgd", "optimizer.lr=0.05"]
    one, two = one_and_two_processes(words, tmp_path)
    assert two.metrics["val/loss"] == pytest.approx(one.metrics["val/loss"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("data", ["multilabel", "regression"])
@pytest.mark.parametrize("method", ["attentive", "mlp"])
def test_other_tasks_on_pooled_features(method, data, tmp_path, cli):
    from peftbench.config import task_schema

    words = [f"method={method}", *task_schema({"name": data}).smoke, "backbone=vit_nano", "debug=smoke"]
    status, _, err = cli(*words, f"output_dir={tmp_path}")
    assert status == 0, err
