//! What the manual page of `gan-train` tells beyond its options.

use ganforge::cli::generate::Manual;

pub const MANUAL: Manual = Manual {
    name: "gan-train",
    synopsis: "gan-train [--preset NAME|--config FILE.toml] --data SOURCE --out RUN [OPTIONS]\ngan-train --resume RUN [OPTIONS]\ngan-train COMMAND [OPTIONS] [ARGUMENTS]",
    examples: &[
        ("gan-train --data faces.zip --out runs/first", "Trains what suits the images, and says what that is."),
        (
            "gan-train --preset dcgan-64 --data faces.zip --out runs/faces --epochs 25",
            "Trains a DCGAN on the images of an archive.",
        ),
        ("gan-train --resume runs/faces --epochs 50", "Goes on, bit for bit, to 50 epochs in total."),
        ("gan-train presets dcgan-64", "Prints a preset as a complete config, to begin a config of one's own with."),
        (
            "gan-train --config mine.toml --set optimizer.generator.lr=1e-4 --out runs/mine",
            "Trains by a config file, with one key changed.",
        ),
        (
            "gan-train --config runs/faces/config.toml --init-from runs/faces --data more --out runs/more",
            "Begins with the weights of another run.",
        ),
        ("gan-train data faces.zip", "Says what is in a data set, what is broken, what is double."),
        ("gan-train export runs/faces --dtype int8", "Writes runs/faces/generator.onnx again, in whole numbers of 8 bits."),
        ("gan-train export netG.pth --preset dcgan-64", "Writes netG.onnx from PyTorch's weights."),
        ("gan-train export runs/faces --layout triton --out repository", "A model repository as Triton serves it."),
        (
            "gan-train export runs/faces --layout hub --license mit --out faces-hub",
            "A folder with card, sample sheet and three precisions, for a model hub.",
        ),
        ("gan-train eval runs/faces", "Scores the generator against the data it was trained on."),
    ],
    files: &[
        ("RUN/config.toml", "The resolved config of a run."),
        ("RUN/stats.jsonl, RUN/tensorboard/", "The log, a line a record, and the same numbers for TensorBoard."),
        ("RUN/samples/", "Sheets of samples from fixed latents, one a step that was looked at."),
        ("RUN/checkpoints/", "Checkpoints by step; the files latest and best name one of them."),
        ("RUN/report.html, RUN/curves.png, RUN/progress.gif", "The run for people, written at its end."),
        ("RUN/generator.onnx", "The exported generator."),
        ("RUN/evaluation.json, RUN/neighbours.png", "What eval found. The second shows training images."),
        ("RUN/.lock", "Held by the one process that trains there."),
    ],
    environment: &[
        (
            "GANFORGE_DATA",
            "The folder where the data sets mnist (of which stacked-mnist is made) and fashion-mnist are looked for, before data/ and the current folder.",
        ),
        (
            "GANFORGE_NO_AMX",
            "If set, --precision bf16 leaves the CPU's AMX alone: slower, and the same bytes as on CPUs that have AVX512-BF16 only.",
        ),
        (
            "GANFORGE_MEMORY",
            "How many GiB may be taken for what files hold, where the system's own figure is not to be believed.",
        ),
        (
            "CANDLE_NUM_THREADS",
            "Threads of candle's own operations, by default 1: nearly all that is computed does not use them.",
        ),
        ("CUDA_VISIBLE_DEVICES", "Which of NVIDIA's GPUs there are, in a build with CUDA."),
    ],
    see_also: "gan-infer(1)",
};
