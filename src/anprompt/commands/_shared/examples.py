"""What stands under `anprompt COMMAND --help`: command lines to start from. A test parses every one."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "demo": ("anprompt demo", "anprompt demo --sets food,sky --quick --out look/", "anprompt demo detect"),
    "fit": (
        "anprompt fit --data my_photos/ --shots 16 --out adapter/",
        "anprompt fit --data my_photos/ --backbone openai/clip-vit-base-patch16 --method maple --out maple/",
        "anprompt fit --data embedded:food --subset base --epochs 5 --set lr=0.002 --out food/",
    ),
    "eval": (
        "anprompt eval adapter/ --data my_photos/ --per-class",
        "anprompt eval adapter/ --data embedded:food --subset new",
        "anprompt eval zeroshot --data my_photos/ --json",
    ),
    "predict": (
        "anprompt predict adapter/ picture.jpg",
        'anprompt predict adapter/ holiday/ --classes "tabby,siamese,lynx" --json',
        "anprompt predict adapter/ picture.jpg --none-of-these",
    ),
    "detect": (
        "anprompt detect fit --data parts/ --shots 8 --out detector/",
        "anprompt detect predict detector/ pictures/ --csv answers.csv --maps maps/",
        "anprompt detect threshold detector/ --data normal/ --false-alarms 0.02",
        "anprompt detect eval detector/ --data embedded:boards --gallery looked.png",
    ),
    "attack": (
        "anprompt attack adapter/ --data my_photos/",
        "anprompt attack adapter/ --data embedded:food --attacks pgd-margin,apgd-ce --eps 1/255,2/255 --steps 50 --images 200",
    ),
    "calibrate": (
        "anprompt calibrate adapter/ --data my_photos/",
        "anprompt calibrate adapter/ --data my_photos/ --accept 0.95",
    ),
    "serve": ("anprompt serve adapter/", "anprompt serve adapter/ --host 0.0.0.0 --token @token.txt --port 8080"),
    "export": ('anprompt export adapter/ --classes "tabby,siamese,lynx" --out model.onnx',),
    "bench": (
        "anprompt bench base-to-new --methods zeroshot,coop,anprompt --seeds 1,2,3",
        "anprompt bench few-shot --data my_photos/ --methods zeroshot,anprompt --shots 1,4,16 --runs runs/",
        "anprompt bench noise --data embedded:food --conditions quick --dry-run",
        "anprompt bench adversarial --data embedded:food --methods zeroshot,nap --seeds 1 --images 100",
    ),
    "report": ("anprompt report runs/", "anprompt report runs/ more_runs/ --html both.html --no-pictures"),
    "methods": ("anprompt methods", "anprompt methods maple"),
    "convert": (
        'anprompt convert model.pth.tar-50 --classes "tabby,siamese" --backbone openai/clip-vit-base-patch16 --out old/',
        "anprompt convert model.pth.tar-5 --classes @classes.txt --backbone clip/ --set class_position=middle",
    ),
    "claims": ("anprompt claims", "anprompt claims anprompt --json"),
    "data": (
        "anprompt data list",
        "anprompt data check my_photos/",
        "anprompt data check oxford_pets --root data/",
        "anprompt data prepare dtd --from dtd-r1.0.1/ --root data/",
    ),
    "completion": ('eval "$(anprompt completion bash)"', "anprompt completion fish | source"),
}


def epilog(name: str) -> str | None:
    """The examples of a command as they are printed; None where there are none."""
    lines = EXAMPLES.get(name)
    return "examples:\n" + "\n".join(f"  {line}" for line in lines) if lines else None
