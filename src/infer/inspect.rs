//! What is looked at in an ONNX file before onnxruntime sees a byte of it: whether it is protobuf to its last byte, and what it wants
//! from other files.
//!
//! onnxruntime reads files that a model names, and what it lets pass depends on its version: absolute paths, `../`, links, paths
//! from the working directory, even addresses in memory. So here **only weights of the main graph may lie in other files**; these
//! are read once, by us, and put into the model in place of their names ([`inline`]). What onnxruntime gets names no file any more,
//! what was hashed is what runs, and a file that changes later changes nothing.
//!
//! Protobuf lets a field come twice, and the readers disagree about what then counts. So each field is looked at as often as it
//! comes, and refused where it matters.
//!
//! All of it is in one file, long as that is: what is let through is decided by all of it together.

use std::collections::BTreeMap;
use std::ops::Range;

use prost::{encode_length_delimiter, length_delimiter_len};

use super::precision::Precision;
use super::proto::{Field, Part, Value};
use crate::error::{Error, Result};

/// The most bytes of a model, weights from other files included: protobuf's lengths end there.
pub(super) const MOST_BYTES: u64 = i32::MAX as u64;
/// Messages in one another, as protobuf itself limits them.
const MOST_DEPTH: usize = 100;
/// Tensors with data in other files. Large models have thousands.
const MOST_TENSORS: usize = 100_000;
/// Pieces that are left of such a tensor without what it says of the file: mostly one or two.
const MOST_PIECES: usize = 64;
/// Files with such data. Some exporters write one a tensor.
const MOST_FILES: usize = 10_000;

const BROKEN: &str = "The file is damaged or no ONNX model: copy or export it again.";
const ONE_FILE: &str =
    "Export the model into one file (torch.onnx.export(…, external_data=False)), if you trust where it comes from.";

/// What is known of a file that was looked at.
#[derive(Debug, Clone)]
pub(super) struct Inspected {
    /// Whether the main graph has convolutions, transposed ones included.
    pub convolutional: bool,
    /// What the main graph computes with.
    pub precision: Precision,
    /// The main graph with its key and length.
    graph: Range<usize>,
    /// The main graph alone.
    body: Range<usize>,
    external: Vec<External>,
}

/// A tensor of the main graph whose data lies in another file.
#[derive(Debug, Clone)]
struct External {
    name: String,
    /// The tensor with its key and length in the model.
    field: Range<usize>,
    /// The parts of it that stay.
    kept: Vec<Range<usize>>,
    location: String,
    offset: u64,
    length: u64,
}

impl Inspected {
    /// The files that hold weights, as the model names them, sorted, each once.
    pub fn files(&self) -> Vec<&str> {
        let mut files: Vec<&str> = self.external.iter().map(|tensor| tensor.location.as_str()).collect();
        files.sort_unstable();
        files.dedup();
        files
    }
}

/// Looks at a whole file, in time proportional to its size.
///
/// # Errors
/// When it is not protobuf to its last byte, holds what ONNX does not know, or wants anything from another file but weights of the
/// main graph.
pub(super) fn inspect(name: &str, file: &[u8]) -> Result<Inspected> {
    // onnxruntime takes such a file for its own format, of which nothing here is known, even if it is protobuf, too.
    if file.get(4..8) == Some(b"ORTM") {
        return Err(Error::invalid(
            name,
            "a model in onnxruntime's own format (.ort), not ONNX",
            "Give the ONNX file that it was made of.",
        ));
    }
    let mut walk = Walk::default();
    let walked = walk.message(Part::whole(file), MessageKind::Model, 0);
    let told = walked.and_then(|()| walk.graph.ok_or_else(|| Refusal::broken("it holds no graph")));
    let (graph, body) = told.map_err(|refusal| refusal.of(name))?;
    let precision = match (walk.quantised, walk.half) {
        (true, _) => Precision::Int8,
        (false, true) => Precision::F16,
        (false, false) => Precision::F32,
    };
    let seen = Inspected { convolutional: walk.convolutional, precision, graph, body, external: walk.external };
    match seen.files().len() {
        files if files > MOST_FILES => {
            Err(Error::invalid(name, format!("its weights are in {files} other files, more than {MOST_FILES}"), ONE_FILE))
        }
        _ => Ok(seen),
    }
}

/// The model with the data of all its tensors in it. `files` holds the contents of [`Inspected::files`].
///
/// # Errors
/// When a file does not hold what the model takes from it, or the whole is larger than protobuf can be.
pub(super) fn inline(name: &str, file: &[u8], seen: &Inspected, files: &BTreeMap<String, Vec<u8>>) -> Result<Vec<u8>> {
    let parts: Vec<&[u8]> = seen.external.iter().map(|tensor| tensor.data(name, files)).collect::<Result<_>>()?;
    let tensors: Vec<(&External, &[u8])> = seen.external.iter().zip(parts).collect();
    let too_large = || {
        let what = format!("with the weights from other files it is larger than {MOST_BYTES} bytes, the most of an ONNX model");
        Error::invalid(name, what, "Export it with smaller weights, such as float16.")
    };
    // Each is counted before any memory is taken: many tensors may name the same bytes.
    let mut body = (seen.body.len() - tensors.iter().map(|(tensor, _)| tensor.field.len()).sum::<usize>()) as u64;
    for (tensor, data) in &tensors {
        body = body.saturating_add(tensor.inlined(data).1 as u64);
    }
    let most = body.saturating_add((file.len() - seen.body.len() + KEY_AND_LENGTH) as u64);
    if most > MOST_BYTES {
        return Err(too_large());
    }
    let mut whole = Vec::new();
    whole.try_reserve_exact(most as usize).map_err(|_| {
        Error::invalid(name, format!("there is no memory for the {most} bytes that it has with its weights"), "Free some.")
    })?;
    let copy = |whole: &mut Vec<u8>, span: Range<usize>| whole.extend_from_slice(file.get(span).unwrap_or_default());
    copy(&mut whole, 0..seen.graph.start);
    put_length(&mut whole, GRAPH, body as usize);
    let mut at = seen.body.start;
    for (tensor, data) in tensors {
        copy(&mut whole, at..tensor.field.start);
        put_length(&mut whole, INITIALIZER, tensor.inlined(data).0);
        tensor.kept.iter().for_each(|span| copy(&mut whole, span.clone()));
        put_length(&mut whole, RAW_DATA, data.len());
        whole.extend_from_slice(data);
        at = tensor.field.end;
    }
    copy(&mut whole, at..file.len());
    Ok(whole)
}

/// Keys of fields that have a length: `number << 3 | 2`.
const GRAPH: u8 = 7 << 3 | 2;
const INITIALIZER: u8 = 5 << 3 | 2;
const RAW_DATA: u8 = 9 << 3 | 2;
/// The most bytes of such a key and a length.
const KEY_AND_LENGTH: usize = 1 + 10;

fn put_length(file: &mut Vec<u8>, key: u8, length: usize) {
    file.push(key);
    // A vector grows as it must: there is no error.
    let _ = encode_length_delimiter(length, file);
}

impl External {
    /// The bytes in another file.
    fn data<'a>(&self, model: &str, files: &'a BTreeMap<String, Vec<u8>>) -> Result<&'a [u8]> {
        let file = files.get(&self.location).map(Vec::as_slice).unwrap_or_default();
        let range = usize::try_from(self.offset).ok().zip(usize::try_from(self.length).ok());
        let data = range.and_then(|(start, length)| file.get(start..start.checked_add(length)?));
        data.ok_or_else(|| {
            Error::invalid(
                model,
                format!(
                    "of its tensor '{}' {} bytes lie in {} from byte {} on, and that file has {}",
                    self.name,
                    self.length,
                    shown(self.location.as_bytes()),
                    self.offset,
                    file.len()
                ),
                "The two files do not belong together, or one was cut short: copy or export both again.",
            )
        })
    }

    /// Bytes of the tensor with these data in it, without and with key and length.
    fn inlined(&self, data: &[u8]) -> (usize, usize) {
        let kept: usize = self.kept.iter().map(Range::len).sum();
        let body = kept + 1 + length_delimiter_len(data.len()) + data.len();
        (body, 1 + length_delimiter_len(body) + body)
    }
}

/// The messages of ONNX that may hold tensors, themselves or in others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MessageKind {
    Model,
    MainGraph,
    /// A tensor of the main graph.
    Initializer,
    /// A graph in an attribute.
    Graph,
    Node,
    Attribute,
    Tensor,
    SparseTensor,
    Function,
    Training,
}

/// What a field of a message is.
enum Holds {
    Message(MessageKind),
    /// Texts, numbers, types: no tensors.
    Others,
    /// No version of ONNX up to IR 14 has such a field.
    Unknown,
}

impl MessageKind {
    /// By the numbers of onnx.proto.
    fn holds(self, number: u32) -> Holds {
        use MessageKind::*;
        match (self, number) {
            (Model, 7) => Holds::Message(MainGraph),
            (Model, 20) => Holds::Message(Training),
            (Model, 25) => Holds::Message(Function),
            (MainGraph, 5) => Holds::Message(Initializer),
            (Graph, 5) | (Attribute, 5 | 10) | (SparseTensor, 1 | 2) => Holds::Message(Tensor),
            (MainGraph | Graph, 1) | (Function, 7) => Holds::Message(Node),
            (MainGraph | Graph, 15) | (Attribute, 22 | 23) => Holds::Message(SparseTensor),
            (Node, 5) | (Function, 11) => Holds::Message(Attribute),
            (Attribute, 6 | 11) | (Training, 1 | 2) => Holds::Message(Graph),
            (Model, 1..=6 | 8 | 14 | 26)
            | (MainGraph | Graph, 2 | 10..=14 | 16)
            | (Node, 1..=4 | 6..=10)
            | (Attribute, 1..=4 | 7..=9 | 13..=15 | 20 | 21)
            | (Initializer | Tensor, 1..=14 | 16)
            | (SparseTensor, 3)
            | (Function, 1 | 4..=6 | 8..=10 | 12..=14)
            | (Training, 3 | 4) => Holds::Others,
            _ => Holds::Unknown,
        }
    }

    /// What to call such a message, and the number of its name's field.
    fn title(self) -> Option<(&'static str, u32)> {
        match self {
            Self::Node => Some(("node", 3)),
            Self::Attribute => Some(("attribute", 1)),
            Self::Function => Some(("function", 1)),
            Self::Tensor | Self::Initializer => Some(("tensor", 8)),
            Self::SparseTensor => Some(("sparse tensor", u32::MAX)),
            Self::Training => Some(("training information", u32::MAX)),
            Self::Model | Self::MainGraph | Self::Graph => None,
        }
    }
}

/// Why a file is refused, and where in it.
struct Refusal {
    what: String,
    hint: &'static str,
    /// From the inside to the outside.
    places: Vec<String>,
}

impl Refusal {
    fn new(what: impl Into<String>, hint: &'static str) -> Self {
        Self { what: what.into(), hint, places: Vec::new() }
    }

    fn broken(what: impl Into<String>) -> Self {
        Self::new(what, BROKEN)
    }

    /// A number that is not known can do nothing; a message could hold a tensor.
    fn unknown(field: &Field) -> Self {
        let what = format!("it holds what ONNX up to IR 14 does not know, at byte {}", field.span.start);
        Self::new(what, "Export it for an older version of ONNX, or use a newer ganforge.")
    }

    /// It lies in this message.
    fn within(mut self, kind: MessageKind, message: Part) -> Self {
        if let Some((title, name)) = kind.title() {
            let text = |number| message.fields().flatten().find(|field| field.number == number).and_then(|field| field.text());
            let name = text(name).map(|name| format!(" '{}'", shown(name))).unwrap_or_default();
            let operator = text(OPERATOR).filter(|_| kind == MessageKind::Node);
            let operator = operator.map(|operator| format!(" ({})", shown(operator))).unwrap_or_default();
            self.places.push(format!("{title}{name}{operator}"));
        }
        self
    }

    fn of(self, name: &str) -> Error {
        let places = if self.places.is_empty() { String::new() } else { format!(" (in {})", self.places.join(" of ")) };
        Error::invalid(name, format!("{}{places}", self.what), self.hint)
    }
}

/// A text of the file, for a message: neither long nor with what moves a terminal's cursor.
fn shown(text: &[u8]) -> String {
    const MOST: usize = 100;
    let lossy = String::from_utf8_lossy(text.get(..MOST).unwrap_or(text));
    format!("{}{}", lossy.escape_debug(), if text.len() > MOST { "…" } else { "" })
}

impl<'a> Field<'a> {
    fn part(&self) -> Option<Part<'a>> {
        match self.value {
            Value::Part(part) => Some(part),
            _ => None,
        }
    }

    fn text(&self) -> Option<&'a [u8]> {
        self.part().map(|part| part.bytes())
    }
}

/// The number of a node's field that names its operator.
const OPERATOR: u32 = 4;
/// An operator whose attributes name a file that providers load.
const READS_FILES: &[u8] = b"EPContext";

#[derive(Default)]
struct Walk {
    convolutional: bool,
    /// Whether activations are turned into whole numbers.
    quantised: bool,
    /// Whether there are weights in half precision.
    half: bool,
    graph: Option<(Range<usize>, Range<usize>)>,
    external: Vec<External>,
}

impl Walk {
    fn message(&mut self, message: Part, kind: MessageKind, depth: usize) -> Result<(), Refusal> {
        if depth > MOST_DEPTH {
            return Err(Refusal::broken(format!("more than {MOST_DEPTH} messages lie in one another")));
        }
        for field in message.fields() {
            let field = field.map_err(Refusal::broken)?;
            match (kind.holds(field.number), field.part()) {
                (Holds::Message(inner), Some(part)) => {
                    self.field(&field, part, kind, inner, depth + 1).map_err(|refusal| refusal.within(inner, part))?;
                }
                (Holds::Message(_), None) => {
                    return Err(Refusal::broken(format!(
                        "a number stands where a message should, at byte {}",
                        field.span.start
                    )));
                }
                (Holds::Unknown, Some(_)) => return Err(Refusal::unknown(&field)),
                (Holds::Others | Holds::Unknown, _) => {}
            }
            if kind == MessageKind::Node && field.number == OPERATOR && field.text() == Some(READS_FILES) {
                let what = "it is compiled for one provider and takes the compiled code from elsewhere";
                return Err(Refusal::new(what, "Give the ONNX file that it was compiled from."));
            }
        }
        Ok(())
    }

    fn field(&mut self, field: &Field, part: Part, outer: MessageKind, kind: MessageKind, depth: usize) -> Result<(), Refusal> {
        match kind {
            MessageKind::Tensor => return no_external(part),
            MessageKind::Initializer => return self.initializer(field, part),
            MessageKind::MainGraph if self.graph.is_some() => return Err(Refusal::broken("it holds two graphs")),
            MessageKind::MainGraph => self.graph = Some((field.span.clone(), part.span())),
            MessageKind::Node if outer == MessageKind::MainGraph => {
                let operators =
                    part.fields().flatten().filter(|field| field.number == OPERATOR).filter_map(|field| field.text());
                for operator in operators {
                    self.convolutional |= operator.windows(4).any(|window| window == b"Conv");
                    self.quantised |= [b"QuantizeLinear".as_slice(), b"DynamicQuantizeLinear"].contains(&operator)
                        || operator.starts_with(b"QLinear");
                }
            }
            _ => {}
        }
        self.message(part, kind, depth)
    }

    fn initializer(&mut self, field: &Field, tensor: Part) -> Result<(), Refusal> {
        self.half |= tensor.fields().flatten().any(|field| is_half(&field));
        let Some(external) = External::of(field, tensor)? else { return Ok(()) };
        if self.external.len() == MOST_TENSORS {
            return Err(Refusal::new(format!("more than {MOST_TENSORS} tensors have their data in other files"), ONE_FILE));
        }
        self.external.push(external);
        Ok(())
    }
}

/// Whether a field of a tensor says that it is in half precision.
fn is_half(field: &Field) -> bool {
    const FLOAT16: u64 = 10;
    field.number == tensor::DATA_TYPE && matches!(field.value, Value::Number(FLOAT16))
}

/// Numbers of a tensor's fields.
mod tensor {
    pub const DIMS: u32 = 1;
    pub const DATA_TYPE: u32 = 2;
    pub const NAME: u32 = 8;
    pub const RAW_DATA: u32 = 9;
    pub const EXTERNAL_DATA: u32 = 13;
    pub const DATA_LOCATION: u32 = 14;
}

/// The values of `data_location`.
const INSIDE: u64 = 0;
const OUTSIDE: u64 = 1;

/// Refuses a tensor that says anything of another file, whichever of its fields says it.
fn no_external(message: Part) -> Result<(), Refusal> {
    for field in message.fields() {
        let field = field.map_err(Refusal::broken)?;
        match (field.number, field.value) {
            (tensor::EXTERNAL_DATA, _) => {
                let location = field.part().map(|entry| entry_of(entry)).transpose()?.filter(|(key, _)| *key == b"location");
                let file = location.map(|(_, file)| format!(", {}", shown(file))).unwrap_or_default();
                return Err(Refusal::new(
                    format!("its data is in another file{file}; only weights of the main graph may be"),
                    ONE_FILE,
                ));
            }
            (tensor::DATA_LOCATION, Value::Number(INSIDE)) => {}
            (tensor::DATA_LOCATION, _) => {
                return Err(Refusal::new("its data is in another file; only weights of the main graph may be", ONE_FILE));
            }
            (number, Value::Part(_)) if matches!(MessageKind::Tensor.holds(number), Holds::Unknown) => {
                return Err(Refusal::unknown(&field));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Key and value of an entry; each exactly once.
fn entry_of<'a>(entry: Part<'a>) -> Result<(&'a [u8], &'a [u8]), Refusal> {
    let (mut key, mut value) = (None, None);
    for field in entry.fields() {
        let field = field.map_err(Refusal::broken)?;
        let place = match field.number {
            1 => &mut key,
            2 => &mut value,
            _ => continue,
        };
        if place.is_some() || field.text().is_none() {
            return Err(Refusal::broken("an entry of its external data has two keys or values"));
        }
        *place = field.text();
    }
    Ok((key.unwrap_or_default(), value.unwrap_or_default()))
}

/// Sets what may be said once.
fn once<T>(place: &mut Option<T>, value: T, what: &str) -> Result<(), Refusal> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(Refusal::broken(format!("it gives its {what} twice"))),
    }
}

impl External {
    /// What a tensor of the main graph says of another file; `None` if it holds its data itself.
    fn of(whole: &Field, message: Part) -> Result<Option<Self>, Refusal> {
        let (mut elements, mut dims, mut name) = (Some(1u64), true, None);
        let (mut data_type, mut where_it_is, mut holds_data) = (None, None, false);
        let (mut location, mut offset, mut length, mut entries) = (None, None, None, false);
        let mut kept = Vec::new();
        let mut dim = |dim: u64| {
            elements = elements.and_then(|all| all.checked_mul(dim));
            dims = dims && i64::try_from(dim).is_ok();
        };
        for field in message.fields() {
            let field = field.map_err(Refusal::broken)?;
            let mut keep = true;
            match (field.number, field.value) {
                (tensor::DIMS, Value::Number(number)) => dim(number),
                (tensor::DIMS, Value::Part(packed)) => {
                    for number in packed.numbers() {
                        dim(number.map_err(Refusal::broken)?);
                    }
                }
                (tensor::DATA_TYPE, Value::Number(number)) => once(&mut data_type, number, "type")?,
                (tensor::NAME, Value::Part(text)) => name = Some(shown(text.bytes())),
                (tensor::EXTERNAL_DATA, Value::Part(entry)) => {
                    (entries, keep) = (true, false);
                    let (key, value) = entry_of(entry)?;
                    match key {
                        b"location" => once(&mut location, value, "location")?,
                        b"offset" => once(&mut offset, value, "offset")?,
                        b"length" => once(&mut length, value, "length")?,
                        _ => {} // checksums, and weights in the form of one processor
                    }
                }
                (tensor::DATA_LOCATION, Value::Number(number @ (INSIDE | OUTSIDE))) => {
                    once(&mut where_it_is, number, "data's location")?;
                    keep = false;
                }
                (tensor::EXTERNAL_DATA | tensor::DATA_LOCATION, _) => {
                    return Err(Refusal::broken(format!(
                        "what it says of its data's location at byte {} is unknown",
                        field.span.start
                    )));
                }
                // All that can hold data.
                (4..=7 | 9..=11, Value::Part(data)) => {
                    holds_data = holds_data || !data.bytes().is_empty();
                    keep = field.number != tensor::RAW_DATA;
                }
                (4..=7 | 9..=11, _) => holds_data = true,
                (number, Value::Part(_)) if matches!(MessageKind::Initializer.holds(number), Holds::Unknown) => {
                    return Err(Refusal::unknown(&field));
                }
                _ => {}
            }
            if keep {
                keep_span(&mut kept, field.span)?;
            }
        }
        match where_it_is {
            Some(OUTSIDE) => {}
            _ if entries => return Err(Refusal::broken("it names another file, but says that its data is inside")),
            _ => return Ok(None),
        }
        if holds_data {
            return Err(Refusal::broken("it has data of its own, but says that they are in another file"));
        }
        let bits = data_type.and_then(bits).filter(|_| dims);
        let size = bits.zip(elements).and_then(|(bits, elements)| elements.checked_mul(bits)).map(|bits| bits.div_ceil(8));
        let size =
            size.ok_or_else(|| Refusal::broken("its type and shape do not tell how many bytes it has in another file"))?;
        // onnxruntime, too, takes a length of 0 as if there were none.
        if ![0, size].contains(&decimal(length, "length")?) {
            return Err(Refusal::broken(format!(
                "it has {size} bytes, but says that it has another number of them in another file"
            )));
        }
        let location = location.filter(|location| !location.is_empty()).and_then(|text| std::str::from_utf8(text).ok());
        let location = location.ok_or_else(|| Refusal::broken("it does not say in which other file its data is"))?;
        Ok(Some(Self {
            name: name.unwrap_or_default(),
            field: whole.span.clone(),
            kept,
            location: location.to_string(),
            offset: decimal(offset, "offset")?,
            length: size,
        }))
    }
}

/// Adds a span, to the last one if it goes on there.
fn keep_span(kept: &mut Vec<Range<usize>>, span: Range<usize>) -> Result<(), Refusal> {
    match kept.last_mut() {
        Some(last) if last.end == span.start => last.end = span.end,
        _ => kept.push(span),
    }
    if kept.len() > MOST_PIECES {
        return Err(Refusal::broken("its fields are in an order that nobody writes"));
    }
    Ok(())
}

/// A number in digits; 0 where there is none.
fn decimal(text: Option<&[u8]>, what: &str) -> Result<u64, Refusal> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(0) };
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| Refusal::broken(format!("its {what} in another file is '{}', no number", shown(text))))
}

/// Bits of an element, by the numbers of `TensorProto.DataType`; texts have none.
fn bits(data_type: u64) -> Option<u64> {
    match data_type {
        25 | 26 => Some(2),
        21..=23 => Some(4),
        27 | 28 => Some(6),
        2 | 3 | 9 | 17..=20 | 24 => Some(8),
        4 | 5 | 10 | 16 => Some(16),
        1 | 6 | 12 => Some(32),
        7 | 11 | 13 | 14 => Some(64),
        15 => Some(128),
        _ => None,
    }
}
