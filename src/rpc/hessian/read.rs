//! Hessian 2 to JSON. Objects become mappings with their Java class under `class`; a value that is referred to again is
//! repeated, and null where it refers to itself. Dates are milliseconds since 1970, bytes a list of numbers.

use serde_json::{Map, Number, Value};

/// Nested values that are followed; each takes stack.
const MAX_DEPTH: usize = 128;

/// Values in one answer, repetitions included: references can make a small message endlessly large.
const MAX_VALUES: usize = 1_000_000;

/// Why bytes are no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("the data ends in the middle of a value")]
    Short,
    #[error("0x{0:02x} begins no value")]
    Tag(u8),
    #[error("a {0} that is referred to does not exist")]
    Reference(&'static str),
    #[error("a string is not text")]
    Text,
    #[error("a value is nested more than {MAX_DEPTH} deep, or there are more than {MAX_VALUES}")]
    TooLarge,
}

type Result<T> = std::result::Result<T, Unreadable>;

/// Reads values one after the other; they share types, class definitions and references.
pub struct Reader<'a> {
    rest: &'a [u8],
    types: Vec<String>,
    classes: Vec<Class>,
    /// Lists, maps and objects in the order they began, each with the number of values in it; `None` until it has ended.
    seen: Vec<Option<(Value, usize)>>,
    depth: usize,
    n_values: usize,
}

struct Class {
    name: String,
    fields: Vec<String>,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes, types: Vec::new(), classes: Vec::new(), seen: Vec::new(), depth: 0, n_values: 0 }
    }

    pub fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// # Errors
    /// What stands there is no value, or too large.
    pub fn value(&mut self) -> Result<Value> {
        self.n_values += 1;
        if self.depth >= MAX_DEPTH || self.n_values > MAX_VALUES {
            return Err(Unreadable::TooLarge);
        }
        self.depth += 1;
        let value = self.tagged();
        self.depth -= 1;
        value
    }

    fn tagged(&mut self) -> Result<Value> {
        let tag = self.byte()?;
        Ok(match tag {
            b'N' => Value::Null,
            b'T' => Value::Bool(true),
            b'F' => Value::Bool(false),
            0x80..=0xd7 | b'I' => Value::from(self.int(tag)?),
            0xd8..=0xff | 0x38..=0x3f | 0x59 | b'L' => Value::from(self.long(tag)?),
            0x5b..=0x5f | b'D' => double(self.double(tag)?),
            0x00..=0x1f | 0x30..=0x33 | b'S' | b'R' => Value::String(self.string(tag)?),
            0x20..=0x2f | 0x34..=0x37 | b'A' | b'B' => self.binary(tag)?.into(),
            0x4a => Value::from(i64::from_be_bytes(self.array()?)),
            0x4b => Value::from(i64::from(i32::from_be_bytes(self.array()?)) * 60_000),
            0x51 => self.reference()?,
            0x55 => self.list(true, None)?,
            b'V' => self.list(true, Some(0x58))?,
            0x57 => self.list(false, None)?,
            0x58 => self.list(false, Some(0x58))?,
            0x70..=0x77 => self.list(true, Some(tag - 0x70))?,
            0x78..=0x7f => self.list(false, Some(tag - 0x78))?,
            b'M' => {
                self.type_name()?;
                self.map(true)?
            }
            b'H' => self.map(false)?,
            b'C' => {
                self.class()?;
                return self.tagged();
            }
            b'O' => {
                let index = self.whole()?;
                self.object(index)?
            }
            0x60..=0x6f => self.object(usize::from(tag - 0x60))?,
            other => return Err(Unreadable::Tag(other)),
        })
    }

    fn int(&mut self, tag: u8) -> Result<i32> {
        let tag_value = i32::from(tag);
        Ok(match tag {
            0x80..=0xbf => tag_value - 0x90,
            0xc0..=0xcf => ((tag_value - 0xc8) << 8) + i32::from(self.byte()?),
            0xd0..=0xd7 => {
                let [high, low] = self.array()?;
                ((tag_value - 0xd4) << 16) + (i32::from(high) << 8) + i32::from(low)
            }
            b'I' => i32::from_be_bytes(self.array()?),
            other => return Err(Unreadable::Tag(other)),
        })
    }

    fn long(&mut self, tag: u8) -> Result<i64> {
        let tag_value = i64::from(tag);
        Ok(match tag {
            0xd8..=0xef => tag_value - 0xe0,
            0xf0..=0xff => ((tag_value - 0xf8) << 8) + i64::from(self.byte()?),
            0x38..=0x3f => {
                let [high, low] = self.array()?;
                ((tag_value - 0x3c) << 16) + (i64::from(high) << 8) + i64::from(low)
            }
            0x59 => i64::from(i32::from_be_bytes(self.array()?)),
            _ => i64::from_be_bytes(self.array()?),
        })
    }

    fn double(&mut self, tag: u8) -> Result<f64> {
        Ok(match tag {
            0x5b => 0.0,
            0x5c => 1.0,
            0x5d => f64::from(i8::from_be_bytes(self.array()?)),
            0x5e => f64::from(i16::from_be_bytes(self.array()?)),
            0x5f => f64::from(i32::from_be_bytes(self.array()?)) / 1000.0,
            _ => f64::from_be_bytes(self.array()?),
        })
    }

    fn string(&mut self, mut tag: u8) -> Result<String> {
        let mut units = Vec::new();
        loop {
            let (length, is_last) = match tag {
                0x00..=0x1f => (usize::from(tag), true),
                0x30..=0x33 => ((usize::from(tag - 0x30) << 8) + usize::from(self.byte()?), true),
                b'S' => (usize::from(u16::from_be_bytes(self.array()?)), true),
                b'R' => (usize::from(u16::from_be_bytes(self.array()?)), false),
                other => return Err(Unreadable::Tag(other)),
            };
            let end = units.len() + length;
            while units.len() < end {
                self.unit(&mut units)?;
            }
            if is_last {
                // Java cuts texts in the middle of a character.
                return Ok(String::from_utf16_lossy(&units));
            }
            tag = self.byte()?;
        }
    }

    /// One UTF-16 unit, or two where a writer used the four bytes of plain UTF-8.
    fn unit(&mut self, units: &mut Vec<u16>) -> Result<()> {
        let first = self.byte()?;
        let n_more = match first {
            0..=0x7f => 0,
            0xc0..=0xdf => 1,
            0xe0..=0xef => 2,
            0xf0..=0xf7 => 3,
            _ => return Err(Unreadable::Text),
        };
        let mut code = u32::from(first) & (0x7f >> (n_more + u32::from(n_more > 0)));
        for _ in 0..n_more {
            let next = self.byte()?;
            if next & 0xc0 != 0x80 {
                return Err(Unreadable::Text);
            }
            code = (code << 6) | u32::from(next & 0x3f);
        }
        match u16::try_from(code) {
            Ok(unit) => units.push(unit),
            Err(_) => {
                let wide = char::from_u32(code).ok_or(Unreadable::Text)?;
                units.extend_from_slice(wide.encode_utf16(&mut [0; 2]));
            }
        }
        Ok(())
    }

    fn binary(&mut self, mut tag: u8) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        loop {
            let (length, is_last) = match tag {
                0x20..=0x2f => (usize::from(tag - 0x20), true),
                0x34..=0x37 => ((usize::from(tag - 0x34) << 8) + usize::from(self.byte()?), true),
                b'B' => (usize::from(u16::from_be_bytes(self.array()?)), true),
                b'A' => (usize::from(u16::from_be_bytes(self.array()?)), false),
                other => return Err(Unreadable::Tag(other)),
            };
            bytes.extend_from_slice(self.take(length)?);
            if is_last {
                return Ok(bytes);
            }
            tag = self.byte()?;
        }
    }

    /// `length` is `None` for lists with an end mark, and 0x58 where the length follows.
    fn list(&mut self, is_typed: bool, length: Option<u8>) -> Result<Value> {
        if is_typed {
            self.type_name()?;
        }
        let length = match length {
            Some(0x58) => Some(self.whole()?),
            Some(short) => Some(usize::from(short)),
            None => None,
        };
        let (place, before) = self.begin();
        let mut elements = Vec::new();
        while length.map_or_else(|| self.rest.first() != Some(&b'Z'), |length| elements.len() < length) {
            elements.push(self.value()?);
        }
        if length.is_none() {
            self.byte()?;
        }
        Ok(self.end(place, before, Value::Array(elements)))
    }

    /// As Higress does, the class that generic answers put into plain maps is left out.
    fn map(&mut self, is_typed: bool) -> Result<Value> {
        let (place, before) = self.begin();
        let mut members = Map::new();
        while self.rest.first() != Some(&b'Z') {
            let key = match self.value()? {
                Value::String(key) => key,
                other => other.to_string(),
            };
            let value = self.value()?;
            if is_typed || key != "class" {
                members.insert(key, value);
            }
        }
        self.byte()?;
        Ok(self.end(place, before, Value::Object(members)))
    }

    fn class(&mut self) -> Result<()> {
        let name = self.text()?;
        let n_fields = self.whole()?;
        let fields = (0..n_fields).map(|_| self.text()).collect::<Result<_>>()?;
        self.classes.push(Class { name, fields });
        Ok(())
    }

    fn object(&mut self, class: usize) -> Result<Value> {
        let class = self.classes.get(class).ok_or(Unreadable::Reference("class"))?;
        let (name, fields) = (class.name.clone(), class.fields.clone());
        let (place, before) = self.begin();
        let mut members = Map::new();
        members.insert("class".to_owned(), Value::String(name));
        for field in fields {
            let value = self.value()?;
            members.insert(field, value);
        }
        Ok(self.end(place, before, Value::Object(members)))
    }

    fn reference(&mut self) -> Result<Value> {
        let index = self.whole()?;
        match self.seen.get(index).ok_or(Unreadable::Reference("value"))? {
            Some((value, n_values)) => {
                self.n_values += n_values;
                if self.n_values > MAX_VALUES {
                    return Err(Unreadable::TooLarge);
                }
                Ok(value.clone())
            }
            None => Ok(Value::Null),
        }
    }

    /// A value that may be referred to begins; gives its place and how many values there were before it.
    fn begin(&mut self) -> (usize, usize) {
        self.seen.push(None);
        (self.seen.len() - 1, self.n_values)
    }

    fn end(&mut self, place: usize, before: usize, value: Value) -> Value {
        let n_values = self.n_values - before + 1;
        if let Some(seen) = self.seen.get_mut(place) {
            *seen = Some((value.clone(), n_values));
        }
        value
    }

    /// A type is written out once and then referred to.
    fn type_name(&mut self) -> Result<()> {
        let tag = self.byte()?;
        match tag {
            0x80..=0xd7 | b'I' => {
                let index = usize::try_from(self.int(tag)?).unwrap_or(usize::MAX);
                self.types.get(index).map(|_| ()).ok_or(Unreadable::Reference("type"))
            }
            _ => {
                let name = self.string(tag)?;
                self.types.push(name);
                Ok(())
            }
        }
    }

    fn text(&mut self) -> Result<String> {
        let tag = self.byte()?;
        self.string(tag)
    }

    /// A length or an index. One that is longer than what follows is a lie.
    fn whole(&mut self) -> Result<usize> {
        let tag = self.byte()?;
        let whole = usize::try_from(self.int(tag)?).map_err(|_| Unreadable::Short)?;
        if whole > self.rest.len() + self.seen.len() + self.classes.len() { Err(Unreadable::Short) } else { Ok(whole) }
    }

    fn byte(&mut self) -> Result<u8> {
        let (first, rest) = self.rest.split_first().ok_or(Unreadable::Short)?;
        self.rest = rest;
        Ok(*first)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Unreadable::Short)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Unreadable::Short)?;
        self.rest = rest;
        Ok(taken)
    }
}

/// JSON has no word for what is not a number.
fn double(value: f64) -> Value {
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}
