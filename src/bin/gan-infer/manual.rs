//! What the manual page of `gan-infer` tells beyond its options.

use ganforge::cli::generate::Manual;

pub const MANUAL: Manual = Manual {
    name: "gan-infer",
    synopsis: "gan-infer --n N --out DIR|FILE|- [OPTIONS]\ngan-infer --seeds LIST --out DIR|FILE|- [OPTIONS]\ngan-infer COMMAND [OPTIONS] [ARGUMENTS]",
    examples: &[
        ("gan-infer --n 1000 --out faces", "A thousand images of the first built-in generator, as PNG files."),
        ("gan-infer --n 1000 --out mine --model runs/faces", "The same of a run of gan-train, or of any ONNX generator."),
        ("gan-infer --n 100 --format grid --out sheet.png --model digits", "A contact sheet."),
        ("gan-infer --n 60 --start 40 --out some", "Images 40 to 99 of seed 0: the same bytes as in --n 100."),
        ("gan-infer --n 50000 --out array.npy", "One array, uint8 [n, height, width, channels]."),
        ("gan-infer --n 5000 --out - --format tar | tar -tf -", "WebDataset samples through a pipe."),
        ("gan-infer --n 1000000 --out tars --format tar --resume", "Begins, or goes on where it was killed."),
        ("gan-infer --n 1000000 --out third --shard 3/8", "The third of eight parts."),
        ("gan-infer --n 1000 --out sevens --model digits --class 7", "Images of one class."),
        ("gan-infer runtime install", "Fetches onnxruntime with pip, where there is none."),
    ],
    files: &[
        (
            "manifest.json, manifest-tar.json, FILE.json, manifest-I-of-N.json",
            "Written beside the images: which images they are, how they were made, and checksums of them.",
        ),
        (
            ".manifest*.journal, .ganforge-*",
            "Hidden files of a job at work: a journal of what is whole, and files that have no name yet.",
        ),
        ("$GANFORGE_HOME/onnxruntime", "What runtime install fetched."),
    ],
    environment: &[(
        "PIP_INDEX_URL, PIP_FIND_LINKS and pip's others",
        "With runtime install: where pip fetches from. What arrives is compared with pinned hashes.",
    )],
    see_also: "gan-train(1)",
};
