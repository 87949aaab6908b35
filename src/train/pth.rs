//! PyTorch's `.pth` and `.pt` files: zip archives of a pickle and the tensors' memory.
//!
//! A pickle is a program. It is only taken apart here (candle's reader keeps calls as data), and refused if it names
//! anything but what state dicts are made of, as `torch.load(weights_only=True)` does.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use candle_core::pickle::{Object, Stack};
use candle_core::{DType, Device, Tensor};
use zip::{CompressionMethod, ZipArchive};

use super::naming::natural;
use crate::error::{Error, Result};
use crate::{files, memory};

/// The largest pickle that is read, in bytes; a state dict takes about 200 a tensor.
const MAX_PICKLE: u64 = 4 << 20;
/// Objects looked at while it is read: short pickles can describe objects without end.
const MAX_OBJECTS: usize = 2_000_000;
/// Bytes of text looked at while it is read, likewise: its memo gives a long text again and again.
const MAX_TEXT: usize = 64 << 20;
/// Objects within objects.
const MAX_DEPTH: usize = 64;
const MEND: &str = "Save the networks' state dicts anew: torch.save(net.state_dict(), \"net.pth\").";

/// A file with its state dicts.
pub(super) struct Pth {
    path: PathBuf,
    /// The archive's folder, with `/`.
    root: String,
    /// Every dict with tensors, by the keys that lead to it, joined with `.`; empty for the file's own.
    pub dicts: Vec<(String, Vec<Stored>)>,
}

/// A tensor of a file, not read yet.
pub(super) struct Stored {
    pub name: String,
    pub dims: Vec<usize>,
    pub dtype: DType,
    strides: Vec<usize>,
    /// The first element's place in its storage.
    offset: usize,
    storage: String,
}

impl Pth {
    /// Reads the names and shapes.
    ///
    /// # Errors
    /// When the file is missing, damaged, or holds anything but tensors, numbers and texts.
    pub fn open(path: &Path) -> Result<Self> {
        let mut archive = archive(path)?;
        let names: Vec<String> = archive.file_names().filter_map(|name| Some(name.ok()?.into_owned())).collect();
        let pickles: Vec<&str> = names.iter().filter_map(|name| name.strip_suffix("data.pkl")).collect();
        let [root] = pickles.as_slice() else {
            return Err(invalid(path, format!("a zip archive with {} files named data.pkl, expected one", pickles.len())));
        };
        let order = entry(&mut archive, path, &format!("{root}byteorder"), MAX_PICKLE);
        if order.is_ok_and(|order| order == b"big") {
            return Err(invalid(path, "its numbers are big-endian".to_string()));
        }
        let pickle = entry(&mut archive, path, &format!("{root}data.pkl"), MAX_PICKLE)?;
        let object = unpickle(&pickle).map_err(|what| invalid(path, what))?;
        let mut dicts = Vec::new();
        collect(object, String::new(), &mut dicts).map_err(|what| invalid(path, what))?;
        Ok(Self { path: path.to_path_buf(), root: root.to_string(), dicts })
    }

    /// Reads a tensor.
    ///
    /// # Errors
    /// When the file is shorter than the tensor says.
    pub fn read(&self, tensor: &Stored) -> Result<Tensor> {
        let wrong = || invalid(&self.path, format!("tensor {} does not lie within the memory saved for it", tensor.name));
        let mut archive = archive(&self.path)?;
        let name = format!("{}data/{}", self.root, tensor.storage);
        let bytes = entry(&mut archive, &self.path, &name, files::LARGE)?;
        let size = tensor.dtype.size_in_bytes();
        let count = tensor.dims.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim)).ok_or_else(wrong)?;
        let reach = tensor
            .dims
            .iter()
            .zip(&tensor.strides)
            .try_fold(tensor.offset, |at, (&dim, &stride)| at.checked_add(dim.saturating_sub(1).checked_mul(stride)?));
        if count == 0 || reach.is_none_or(|last| last >= bytes.len() / size) {
            return Err(wrong());
        }
        let mut values = Vec::with_capacity(count * size);
        let mut index = vec![0; tensor.dims.len()];
        for _ in 0..count {
            let at = index.iter().zip(&tensor.strides).fold(tensor.offset, |at, (&i, &stride)| at + i * stride);
            values.extend_from_slice(&bytes[at * size..(at + 1) * size]);
            // The next place, the last axis first.
            for (i, &dim) in index.iter_mut().zip(&tensor.dims).rev() {
                *i += 1;
                if *i < dim {
                    break;
                }
                *i = 0;
            }
        }
        Ok(Tensor::from_raw_buffer(&values, tensor.dtype, &tensor.dims, &Device::Cpu)?)
    }
}

fn invalid(path: &Path, what: String) -> Error {
    Error::invalid_file(path, what, MEND)
}

fn archive(path: &Path) -> Result<ZipArchive<BufReader<File>>> {
    let (file, _) = files::open(path)?;
    ZipArchive::new(BufReader::new(file)).map_err(|e| {
        let what = format!("no state dict in the form that PyTorch writes since version 1.6: {e}");
        Error::invalid_file(path, what, "If PyTorch opens it, save it from there anew; else fetch it again: it may be cut off.")
    })
}

fn entry(archive: &mut ZipArchive<BufReader<File>>, path: &Path, name: &str, most: u64) -> Result<Vec<u8>> {
    let damaged = |what: String| invalid(path, format!("{name} inside it: {what}"));
    let file = archive.by_name(name).map_err(|e| damaged(e.to_string()))?;
    // PyTorch does not compress. What is compressed may be longer than any memory.
    if file.compression() != CompressionMethod::Stored || file.size() > most {
        return Err(damaged("compressed, or too large".to_string()));
    }
    // One byte more than there is: at the end the archive's checksum is compared.
    let (size, mut bytes) = (file.size(), Vec::new());
    memory::check(path, size, name, "Take a smaller file.")?;
    file.take(size.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| damaged(e.to_string()))?;
    Ok(bytes)
}

/// The object that a pickle describes. Operation by operation, so that nothing grows beyond what a state dict needs.
fn unpickle(pickle: &[u8]) -> Result<Object, String> {
    // The reader shows the objects that it stumbles over, whole.
    let damaged =
        |e: candle_core::Error| format!("its pickle is damaged: {}", e.to_string().chars().take(200).collect::<String>());
    let (mut stack, mut rest, mut seen) = (Stack::empty(), pickle, Seen::default());
    loop {
        check_operand(rest)?;
        let stop = stack.read(&mut rest).map_err(damaged)?;
        if let Some(made) = stack.stack().last() {
            measure(made, 0, &mut seen)?;
            if let Object::Class { module_name, class_name } = made {
                check_global(module_name, class_name)?;
            }
        }
        if stop {
            return stack.finalize().map_err(damaged);
        }
    }
}

/// Refuses operands that the reader would take memory for, or shift by, without looking.
fn check_operand(rest: &[u8]) -> Result<(), String> {
    let whole = match *rest {
        [b'X', a, b, c, d, ref text @ ..] => u32::from_le_bytes([a, b, c, d]) as usize <= text.len(),
        [0x8a, bytes, ..] => bytes <= 8,
        _ => true,
    };
    if whole { Ok(()) } else { Err("its pickle is damaged: an operand is longer than it".to_string()) }
}

/// What was looked at so far. It bounds what the reader holds: whatever it copies is looked at next.
#[derive(Default)]
struct Seen {
    objects: usize,
    text: usize,
}

fn measure(object: &Object, depth: usize, seen: &mut Seen) -> Result<(), String> {
    seen.objects += 1;
    seen.text += match object {
        Object::Unicode(text) => text.len(),
        Object::Class { module_name, class_name } => module_name.len() + class_name.len(),
        _ => 0,
    };
    if depth > MAX_DEPTH || seen.objects > MAX_OBJECTS || seen.text > MAX_TEXT {
        return Err("its pickle is more deeply nested, or longer, than any state dict".to_string());
    }
    let mut inner = |object: &Object| measure(object, depth + 1, seen);
    match object {
        Object::Tuple(items) | Object::List(items) => items.iter().try_for_each(inner),
        Object::Dict(items) => items.iter().try_for_each(|(key, value)| inner(key).and_then(|()| inner(value))),
        Object::Reduce { callable, args } | Object::Build { callable, args } => inner(callable).and_then(|()| inner(args)),
        Object::PersistentLoad(id) => inner(id),
        _ => Ok(()),
    }
}

/// What a state dict may name.
fn check_global(module: &str, class: &str) -> Result<(), String> {
    let known = match module {
        "collections" => matches!(class, "OrderedDict" | "defaultdict"),
        "torch._utils" => matches!(class, "_rebuild_tensor_v2" | "_rebuild_parameter"),
        "torch._tensor" => class == "_rebuild_from_type_v2",
        "torch.nn.parameter" => class == "Parameter",
        "torch" => class.ends_with("Storage") || matches!(class, "Size" | "device" | "Tensor") || is_dtype(class),
        "__builtin__" | "builtins" => matches!(class, "set" | "dict" | "list" | "int" | "float"),
        _ => false,
    };
    if known {
        return Ok(());
    }
    Err(format!(
        "it holds the Python object {module}.{class}, which only Python could make; nothing of it was run, and only state dicts \
         are read"
    ))
}

fn is_dtype(class: &str) -> bool {
    ["float", "bfloat", "int", "uint", "bool"]
        .iter()
        .any(|kind| class.strip_prefix(kind).is_some_and(|bits| bits.bytes().all(|byte| byte.is_ascii_digit())))
}

/// Every dict with tensors in it, inner ones included.
fn collect(object: Object, key: String, dicts: &mut Vec<(String, Vec<Stored>)>) -> Result<(), String> {
    // A dict with attributes, or of a class of its own.
    let object = match object {
        Object::Build { callable, .. } => *callable,
        other => other,
    };
    let Object::Dict(items) = object else { return Ok(()) };
    let (mut tensors, mut inner) = (Vec::new(), Vec::new());
    for (name, value) in items {
        let Object::Unicode(name) = name else { continue };
        match &value {
            Object::Reduce { .. } => tensors.extend(tensor(name, value)?),
            _ => inner.push((name, value)),
        }
    }
    if !tensors.is_empty() {
        sort(&mut tensors);
        dicts.push((key.clone(), tensors));
    }
    for (name, value) in inner {
        let key = if key.is_empty() { name } else { format!("{key}.{name}") };
        collect(value, key, dicts)?;
    }
    Ok(())
}

/// Into the order in which they were saved, which candle's dicts do not keep: PyTorch numbers the storages as it meets them.
fn sort(tensors: &mut [Stored]) {
    tensors.sort_by_cached_key(|tensor| (tensor.storage.parse().unwrap_or(u64::MAX), tensor.offset, natural(&tensor.name)));
}

/// A tensor, if the object is one.
fn tensor(name: String, object: Object) -> Result<Option<Stored>, String> {
    let strange = format!("tensor {name} is saved in a way that is not known here");
    let Object::Reduce { callable, args } = object else { return Ok(None) };
    let (Object::Class { class_name, .. }, Object::Tuple(args)) = (*callable, *args) else { return Ok(None) };
    let mut args = args.into_iter();
    match class_name.as_str() {
        "_rebuild_parameter" => return tensor(name, args.next().ok_or(strange)?),
        "_rebuild_from_type_v2" => {
            let (Some(callable), _, Some(inner)) = (args.next(), args.next(), args.next()) else { return Err(strange) };
            return tensor(name, Object::Reduce { callable: Box::new(callable), args: Box::new(inner) });
        }
        "_rebuild_tensor_v2" => {}
        _ => return Ok(None),
    }
    let parts = [args.next(), args.next(), args.next(), args.next()];
    let [Some(Object::PersistentLoad(storage)), Some(offset), Some(dims), Some(strides)] = parts else { return Err(strange) };
    let Object::Tuple(storage) = *storage else { return Err(strange) };
    let [_, Object::Class { class_name, .. }, Object::Unicode(storage), ..] = storage.as_slice() else { return Err(strange) };
    let dtype = match class_name.as_str() {
        "FloatStorage" => DType::F32,
        "DoubleStorage" => DType::F64,
        "HalfStorage" => DType::F16,
        "BFloat16Storage" => DType::BF16,
        "LongStorage" => DType::I64,
        "ByteStorage" => DType::U8,
        other => return Err(format!("tensor {name} is of the type {other}, expected floating-point numbers")),
    };
    let (Some(offset), Some(dims), Some(strides)) = (whole(&offset), all_whole(dims), all_whole(strides)) else {
        return Err(strange);
    };
    if dims.len() == strides.len() {
        Ok(Some(Stored { name, dims, dtype, strides, offset, storage: storage.clone() }))
    } else {
        Err(strange)
    }
}

fn whole(object: &Object) -> Option<usize> {
    match *object {
        Object::Int(value) => value.try_into().ok(),
        Object::Long(value) => value.try_into().ok(),
        _ => None,
    }
}

fn all_whole(object: Object) -> Option<Vec<usize>> {
    match object {
        Object::Tuple(items) => items.iter().map(whole).collect(),
        _ => None,
    }
}
