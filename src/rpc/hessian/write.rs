//! JSON values to Hessian 2, each in its shortest form.

use serde_json::Value;

/// Longest piece of a string in one go, UTF-16 units.
const MAX_CHUNK: usize = 0x8000;

/// How a whole number is written; Java tells the two apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Number {
    Int,
    Long,
}

#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub fn null(&mut self) {
        self.bytes.push(b'N');
    }

    pub fn boolean(&mut self, value: bool) {
        self.bytes.push(if value { b'T' } else { b'F' });
    }

    pub fn int(&mut self, value: i32) {
        let bytes = value.to_be_bytes();
        match value {
            -16..=47 => self.bytes.push(0x90u8.wrapping_add(bytes[3])),
            -2048..=2047 => self.bytes.extend([0xc8u8.wrapping_add(bytes[2]), bytes[3]]),
            -262_144..=262_143 => self.bytes.extend([0xd4u8.wrapping_add(bytes[1]), bytes[2], bytes[3]]),
            _ => {
                self.bytes.push(b'I');
                self.bytes.extend(bytes);
            }
        }
    }

    pub fn long(&mut self, value: i64) {
        let bytes = value.to_be_bytes();
        match value {
            -8..=15 => self.bytes.push(0xe0u8.wrapping_add(bytes[7])),
            -2048..=2047 => self.bytes.extend([0xf8u8.wrapping_add(bytes[6]), bytes[7]]),
            -262_144..=262_143 => self.bytes.extend([0x3cu8.wrapping_add(bytes[5]), bytes[6], bytes[7]]),
            _ => match i32::try_from(value) {
                Ok(value) => {
                    self.bytes.push(0x59);
                    self.bytes.extend(value.to_be_bytes());
                }
                Err(_) => {
                    self.bytes.push(b'L');
                    self.bytes.extend(bytes);
                }
            },
        }
    }

    #[expect(clippy::float_cmp, clippy::cast_possible_truncation, reason = "only values that survive the way back")]
    pub fn double(&mut self, value: f64) {
        let short = value as i16;
        if value == 0.0 && value.is_sign_positive() {
            self.bytes.push(0x5b);
        } else if value == 1.0 {
            self.bytes.push(0x5c);
        } else if f64::from(short) == value && value != 0.0 {
            match i8::try_from(short) {
                Ok(byte) => self.bytes.extend([0x5d, byte.to_be_bytes()[0]]),
                Err(_) => {
                    self.bytes.push(0x5e);
                    self.bytes.extend(short.to_be_bytes());
                }
            }
        } else {
            self.bytes.push(b'D');
            self.bytes.extend(value.to_be_bytes());
        }
    }

    pub fn string(&mut self, text: &str) {
        let units: Vec<u16> = text.encode_utf16().collect();
        let mut rest = units.as_slice();
        while rest.len() > MAX_CHUNK {
            // A pair of surrogates stays together: not every reader joins them again.
            let cut = MAX_CHUNK - usize::from((0xd800..0xdc00).contains(&rest[MAX_CHUNK - 1]));
            self.bytes.push(b'R');
            self.chunk(cut, &rest[..cut]);
            rest = &rest[cut..];
        }
        let [high, low] = u16::try_from(rest.len()).unwrap_or(u16::MAX).to_be_bytes();
        match rest.len() {
            0..=31 => self.bytes.push(low),
            32..=1023 => self.bytes.extend([0x30 + high, low]),
            _ => self.bytes.extend([b'S', high, low]),
        }
        self.units(rest);
    }

    fn chunk(&mut self, length: usize, units: &[u16]) {
        self.bytes.extend(u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
        self.units(units);
    }

    fn units(&mut self, units: &[u16]) {
        for unit in units {
            let [high, low] = unit.to_be_bytes();
            match unit {
                0..=0x7f => self.bytes.push(low),
                0x80..=0x7ff => self.bytes.extend([0xc0 | (high << 2) | (low >> 6), 0x80 | (low & 0x3f)]),
                _ => self.bytes.extend([
                    0xe0 | (high >> 4),
                    0x80 | ((high & 0x0f) << 2) | (low >> 6),
                    0x80 | (low & 0x3f),
                ]),
            }
        }
    }

    /// An untyped list; `elements` writes them.
    pub fn list(&mut self, elements: impl FnOnce(&mut Writer)) {
        self.bytes.push(0x57);
        elements(self);
        self.bytes.push(b'Z');
    }

    /// An untyped map; `entries` writes key after value after key.
    pub fn map(&mut self, entries: impl FnOnce(&mut Writer)) {
        self.bytes.push(b'H');
        entries(self);
        self.bytes.push(b'Z');
    }

    /// Any JSON value. Whole numbers beyond 64 bits become doubles.
    pub fn value(&mut self, value: &Value, number: Number) {
        match value {
            Value::Null => self.null(),
            Value::Bool(value) => self.boolean(*value),
            Value::Number(value) => match (value.as_i64(), number) {
                (Some(whole), Number::Int) => match i32::try_from(whole) {
                    Ok(whole) => self.int(whole),
                    Err(_) => self.long(whole),
                },
                (Some(whole), Number::Long) => self.long(whole),
                (None, _) => self.double(value.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => self.string(text),
            Value::Array(elements) => {
                self.list(|writer| elements.iter().for_each(|element| writer.value(element, number)));
            }
            Value::Object(members) => self.map(|writer| {
                for (key, member) in members {
                    writer.string(key);
                    writer.value(member, number);
                }
            }),
        }
    }
}
