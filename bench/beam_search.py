"""Sentences/s of beam search against Hugging Face's generate and CTranslate2, with the same weights and rules.

    python bench/beam_search.py [--size embedded|base] [--rounds N] [--device cpu|cuda] [--save]

Marian's network; beam 4, and a length penalty of 0.6 as Hugging Face divides. A sentence is finished when 4 of its
histories have ended, as in fairseq and CTranslate2 (Hugging Face's early_stopping=True). The translations must be
Hugging Face's; of one that is not the score must be the same to 1e-3. CTranslate2 is a yardstick, in float32 too; how
many of its translations are the same is printed.

The weights are random, but made so that translations end: the end mark's logit grows with the position, through one
dimension of its embedding, and depends on the source. The longest translation of a batch is about twice the mean, as
in real ones. All contestants get the sentences in one batch, the longest first.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from typing import Any

import harness
import torch
from torch import Tensor

from airank_fast.models.beam_search import EOS, PENALTIES, beam_search
from airank_fast.models.transformer import Transformer, from_public
from airank_fast.nn import PackedSequences

BEAM, POWER, MAX_TOKENS = 4, 0.6, 200  # no translation is so long
BOS, PAD, UNK = 0, 1, 3
SIZES = {  # layers on each side, width, heads, vocabulary, standard deviation of the logits; sentences
    "embedded": (2, 128, 4, 2_000, 4.0, 64),
    "base": (6, 512, 8, 33_708, 5.5, 32),
}
ENDING, SPREAD, SLOPE = 22, 5, 1.0  # tokens; logits a token by which the end mark becomes more likely
Sentences = list[list[int]]


def sources(num: int, vocab: int) -> Sentences:
    """Random tokens, of lengths as sentences have; the longest first."""
    generator = torch.Generator().manual_seed(0)
    lengths = (torch.randn(num, generator=generator) * 0.5 + 3.1).exp().clamp(8, 70).long().tolist()
    made = [torch.randint(UNK + 1, vocab, (length,), generator=generator).tolist() for length in lengths]
    return sorted(([*each, EOS] for each in made), key=len, reverse=True)


def packed(sentences: Sentences, device: str) -> tuple[Tensor, PackedSequences]:
    tokens = torch.tensor([token for each in sentences for token in each], device=device)
    return tokens, PackedSequences([len(each) for each in sentences], device)


def random_marian(layers: int, width: int, heads: int, vocab: int, deviation: float) -> Any:
    """Hugging Face's network with random weights; `end` makes its translations end."""
    from transformers import MarianConfig, MarianMTModel

    torch.manual_seed(1)
    config = MarianConfig(
        vocab_size=vocab,
        d_model=width,
        **{f"{side}_layers": layers for side in ("encoder", "decoder")},
        **{f"{side}_attention_heads": heads for side in ("encoder", "decoder")},
        **{f"{side}_ffn_dim": 4 * width for side in ("encoder", "decoder")},
        activation_function="relu",
        scale_embedding=True,
        max_position_embeddings=2 * MAX_TOKENS,
        bos_token_id=BOS,
        pad_token_id=PAD,
        eos_token_id=EOS,
        decoder_start_token_id=EOS,
        forced_eos_token_id=None,
    )
    network = MarianMTModel(config).eval().requires_grad_(False)
    for name, parameter in network.named_parameters():
        if parameter.ndim == 2 and "embed" not in name and "shared" not in name:
            torch.nn.init.xavier_uniform_(parameter)
    network.model.shared.weight.normal_(std=deviation / width**0.5)
    return network


def ours_of(theirs: Any, device: str) -> Transformer:
    """The same network here."""
    config = theirs.config
    size = {"width": config.d_model, "inner_width": config.encoder_ffn_dim, "num_heads": config.encoder_attention_heads}
    layers = {"encoder_layers": config.encoder_layers, "decoder_layers": config.decoder_layers}
    model = Transformer(config.vocab_size, **size, **layers, marian=True)
    model.load_state_dict(from_public(theirs.state_dict()))
    return model.to(device).eval()


def end(theirs: Any, sentences: Sentences) -> None:
    """Make translations end around token ENDING, earlier or later by the source.

    In one dimension, whose position rises over the first 60 tokens, embeddings are 0 and no layer writes, but for
    the last attention to the source. The last norm multiplies it, so that the end mark's embedding has little there.
    """
    width, decoder = theirs.config.d_model, theirs.model.decoder
    dimension, small = round(0.2 * width), 0.01
    embeddings = theirs.model.shared.weight
    embeddings[:, dimension] = 0
    _centre(embeddings, 1, dimension)
    embeddings[EOS] = 0
    embeddings[EOS, dimension] = small
    for layer in decoder.layers:
        for linear in (layer.self_attn.out_proj, layer.encoder_attn.out_proj, layer.fc2):
            linear.weight[dimension] = 0
            _centre(linear.weight, 0, dimension)
    last = decoder.layers[-1]
    last.final_layer_norm.weight.copy_(torch.randint(0, 2, (width,)) * 2.0 - 1)  # else a token is likely after itself
    last.encoder_attn.q_proj.weight.zero_()  # the mean over the source, the same for all tokens
    row = last.encoder_attn.out_proj.weight[dimension]
    row.normal_(std=width**-0.5)
    for _ in range(2):
        model = ours_of(theirs, "cpu")
        targets = torch.randint(UNK + 1, theirs.config.vocab_size, (len(sentences), 2 * ENDING))
        target_sequences = PackedSequences([2 * ENDING] * len(sentences))
        source, source_sequences = packed(sentences, "cpu")
        decoded = model.decode(
            targets.flatten(), target_sequences, model.encode(source, source_sequences), source_sequences
        )
        logits = model.logits(decoded).unflatten(0, targets.shape)
        at = decoded.unflatten(0, targets.shape)[:, :, dimension]
        rise = (at[:, -ENDING // 2 :].mean() - at[:, : ENDING // 2].mean()) / (1.5 * ENDING)
        row *= SPREAD * rise / at.mean(1).std()
        last.final_layer_norm.weight[dimension] *= SLOPE / (rise * small)
        top = logits[:, ENDING, UNK:].max(1).values.mean()
        theirs.final_logits_bias[0, EOS] = top - at[:, ENDING].mean() * SLOPE / rise


def _centre(weight: Tensor, axis: int, dimension: int) -> None:
    """Let the norms' means be 0 but for positions."""
    weight -= weight.sum(axis, keepdim=True) / (weight.shape[axis] - 1)
    weight.select(axis, dimension).zero_()


def hugging_face(theirs: Any, sentences: Sentences, device: str) -> Callable[[], Sentences]:
    """Its generate, on padded sentences."""
    padded = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(each) for each in sentences], batch_first=True, padding_value=PAD
    )
    padded = padded.to(device)
    theirs = theirs.to(device)

    def generate() -> Sentences:
        found = theirs.generate(
            padded,
            attention_mask=(padded != PAD).long(),
            num_beams=BEAM,
            length_penalty=POWER,
            early_stopping=True,
            max_length=MAX_TOKENS,
            suppress_tokens=[BOS, PAD],
        )
        return [_until_end(row[1:]) for row in found.tolist()]

    return generate


def translator_of(theirs: Any, sentences: Sentences, device: str) -> Callable[[], Sentences] | None:
    """CTranslate2's, or None where it is missing."""
    if not harness.is_there("ctranslate2"):
        return None
    import ctranslate2

    if device == "cuda" and not ctranslate2.get_cuda_device_count():
        print("not a peer here: ctranslate2 (it finds no CUDA device)")
        return None
    from ctranslate2.converters.transformers import BartLoader

    theirs.config.normalize_before = theirs.config.normalize_embedding = False
    loader = BartLoader()
    spec = loader.get_model_spec(theirs.cpu())
    names = [str(number) for number in range(theirs.config.vocab_size)]
    loader.set_vocabulary(spec, names)
    for option, token in (("bos", BOS), ("eos", EOS), ("unk", UNK)):
        setattr(spec.config, f"{option}_token", names[token])
    spec.config.decoder_start_token = names[EOS]
    with tempfile.TemporaryDirectory() as folder:
        spec.validate()
        spec.save(folder)
        threads = {"inter_threads": 1, "intra_threads": torch.get_num_threads()}
        translator = ctranslate2.Translator(folder, device=device, compute_type="float32", **threads)
    texts = [[names[token] for token in each] for each in sentences]

    def translate() -> Sentences:
        found = translator.translate_batch(
            texts,
            beam_size=BEAM,
            length_penalty=POWER,
            max_decoding_length=MAX_TOKENS,
            suppress_sequences=[[names[BOS]], [names[PAD]]],
            max_batch_size=len(texts),
        )
        return [[int(token) for token in each.hypotheses[0]] for each in found]

    return translate


def _until_end(tokens: list[int]) -> list[int]:
    return tokens[: tokens.index(EOS)] if EOS in tokens else [token for token in tokens if token != PAD]


def score(model: Transformer, source: list[int], translation: list[int], device: str) -> float:
    """What beam search compares."""
    previous, sequences = packed([[EOS, *translation]], device)
    log_p = model(*packed([source], device), previous, sequences).log_softmax(1)
    total = log_p.gather(1, torch.tensor([[*translation, EOS]], device=device).T).sum()
    return float(total) / PENALTIES["fairseq"](len(translation) + 1, POWER)


def check(model: Transformer, sentences: Sentences, ours: Sentences, theirs: Sentences, device: str) -> None:
    """The same translations, or of the same score."""
    for source, found, expected in zip(sentences, ours, theirs, strict=True):
        if found != expected:
            scores = [score(model, source, each, device) for each in (found, expected)]
            assert abs(scores[0] - scores[1]) < 1e-3, f"{found} has score {scores[0]}, {expected} {scores[1]}"


def same(one: Sentences, other: Sentences) -> str:
    return f"{sum(a == b for a, b in zip(one, other, strict=True))} of {len(one)} the same"


@torch.no_grad()
def main() -> None:
    """Check, time, print; save on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, help="default: both")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--save", action="store_true", help="append to bench/results/beam_search.jsonl")
    arguments = parser.parse_args()
    device = arguments.device
    if arguments.save and not harness.wait_until_idle(device):
        parser.exit(1, "the machine is busy: nothing was measured\n")
    for size in [arguments.size] if arguments.size else SIZES:
        *network, num = SIZES[size]
        sentences = sources(num, vocab=network[3])
        theirs = random_marian(*network)
        end(theirs, sentences)
        model = ours_of(theirs, device)
        source, sequences = packed(sentences, device)
        contestants: dict[str, Callable[[], Sentences]] = {
            "airank_fast": lambda m=model, s=source, q=sequences: beam_search(
                m, s, q, BEAM, POWER, MAX_TOKENS, penalty="fairseq"
            ),
        }
        if (peer := translator_of(theirs, sentences, device)) is not None:
            contestants["ctranslate2"] = peer
        contestants["Hugging Face"] = hugging_face(theirs, sentences, device)
        found = {name: translate() for name, translate in contestants.items()}
        check(model, sentences, found["airank_fast"], found["Hugging Face"], device)
        lengths = [len(each) for each in found["airank_fast"]]
        mean = sum(lengths) / num
        print(f"{size}: {num} sentences of {len(source) / num:.0f} tokens on average, translations of {mean:.0f}")
        for name in [*contestants][1:]:
            print(f"  {name}: {same(found['airank_fast'], found[name])}")
        times = harness.time_rounds(contestants, num_rounds=arguments.rounds, device=device, num_warm_up=0, ahead=False)
        case = f"beam search, {size}, {num} sentences, fp32, {device}"
        print(harness.as_text(case, times, "airank_fast"))
        rates = {name: num / harness.timing(seconds).median_s for name, seconds in times.items()}
        print("  sentences/s: " + ", ".join(f"{name} {rate:.1f}" for name, rate in rates.items()))
        if arguments.save:
            harness.save("beam_search", case, times, "airank_fast", sentences_per_s=rates)


if __name__ == "__main__":
    main()
