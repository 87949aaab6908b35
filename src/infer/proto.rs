//! Protobuf's wire format: the fields of a message one by one, as they lie in the file. Nothing is copied, nothing is merged, and
//! no memory is taken, whatever the file says.

use std::ops::Range;

use prost::encoding::{WireType, decode_key, decode_varint};

/// Part of a file that holds a message, a text or packed numbers.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    file: &'a [u8],
    start: usize,
    end: usize,
}

/// A field as it lies in the file.
pub(super) struct Field<'a> {
    /// Its number in the message.
    pub number: u32,
    pub value: Value<'a>,
    /// The bytes of the file that it takes, its key included.
    pub span: Range<usize>,
}

/// The value of a field.
#[derive(Clone, Copy)]
pub(super) enum Value<'a> {
    /// A whole number of any type.
    Number(u64),
    /// Four or eight bytes.
    Fixed,
    /// A message, a text, packed numbers: whatever has a length.
    Part(Part<'a>),
}

impl<'a> Part<'a> {
    /// A whole file.
    pub fn whole(file: &'a [u8]) -> Self {
        Self { file, start: 0, end: file.len() }
    }

    /// Its bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.file.get(self.start..self.end).unwrap_or_default()
    }

    /// Where it lies in the file.
    pub fn span(&self) -> Range<usize> {
        self.start..self.end
    }

    /// The fields of a message, in the file's order; the last is an error where what follows is no protobuf. The error says what is
    /// wrong at which byte.
    pub fn fields(&self) -> impl Iterator<Item = Result<Field<'a>, String>> + use<'a> {
        let mut rest = *self;
        std::iter::from_fn(move || {
            if rest.start >= rest.end {
                return None;
            }
            let field = rest.next_field();
            if field.is_err() {
                rest.start = rest.end;
            }
            Some(field)
        })
    }

    /// Packed numbers.
    pub fn numbers(&self) -> impl Iterator<Item = Result<u64, String>> + use<'a> {
        let mut rest = *self;
        std::iter::from_fn(move || {
            if rest.start >= rest.end {
                return None;
            }
            let number = rest.read(decode_varint);
            if number.is_err() {
                rest.start = rest.end;
            }
            Some(number)
        })
    }

    fn next_field(&mut self) -> Result<Field<'a>, String> {
        let start = self.start;
        let (number, kind) = self.read(decode_key)?;
        let value = match kind {
            WireType::Varint => Value::Number(self.read(decode_varint)?),
            WireType::SixtyFourBit => self.take(8).map(|_| Value::Fixed)?,
            WireType::ThirtyTwoBit => self.take(4).map(|_| Value::Fixed)?,
            WireType::LengthDelimited => {
                let length = self.read(decode_varint)?;
                Value::Part(self.take(length)?)
            }
            // No version of ONNX has any.
            WireType::StartGroup | WireType::EndGroup => return Err(format!("a group begins or ends at byte {start}")),
        };
        Ok(Field { number, value, span: start..self.start })
    }

    fn read<T>(&mut self, decode: impl FnOnce(&mut &'a [u8]) -> Result<T, prost::DecodeError>) -> Result<T, String> {
        let mut bytes = self.bytes();
        let before = bytes.len();
        let value = decode(&mut bytes).map_err(|e| format!("{e} at byte {}", self.start))?;
        self.start += before - bytes.len();
        Ok(value)
    }

    fn take(&mut self, length: u64) -> Result<Self, String> {
        let left = self.end - self.start;
        match usize::try_from(length) {
            Ok(length) if length <= left => {
                let part = Self { end: self.start + length, ..*self };
                self.start = part.end;
                Ok(part)
            }
            _ => Err(format!("a part of {length} bytes begins at byte {}, and there are {left}", self.start)),
        }
    }
}
