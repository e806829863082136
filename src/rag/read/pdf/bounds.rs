//! What streams may unpack to: a few kilobytes of a PDF can be made to fill any memory.

use std::io::Read;

use flate2::read::{DeflateDecoder, ZlibDecoder};
use lopdf::{Dictionary, Object, ObjectId, Stream};

/// A stream of objects that unpacks to more is left out; real ones hold a few hundred objects.
const MAX_OBJECT_STREAM_BYTES: usize = 64 << 20;
/// LZW can blow up a thousandfold, and only files of the nineties use it, with small streams.
const MAX_LZW_BYTES: usize = 128 << 10;
/// A longer row of a predictor (it is meant for rows of pixels) is an attack.
const MAX_ROW_BYTES: i64 = 1 << 20;

/// Called by the library for each object it loads, before it unpacks any: leaves out images, which hold no text, and
/// streams of objects that would fill the memory.
pub fn keep(id: ObjectId, object: &mut Object) -> Option<(ObjectId, Object)> {
    if let Object::Stream(stream) = object {
        let is =
            |key: &[u8], name: &[u8]| stream.dict.get(key).and_then(Object::as_name).is_ok_and(|found| found == name);
        if is(b"Subtype", b"Image") {
            return None;
        }
        if is(b"Type", b"ObjStm") {
            unpacked(stream, MAX_OBJECT_STREAM_BYTES)?;
        }
        // The library keeps the object it has; what is returned counts only for objects out of streams of objects, and
        // among those are no streams.
        return Some((id, Object::Null));
    }
    Some((id, object.clone()))
}

/// The content of a stream; `None` if it unpacks to more than `limit`, or with filters that are for images only.
pub fn unpacked(stream: &Stream, limit: usize) -> Option<Vec<u8>> {
    let filters = stream.filters().unwrap_or_default();
    if filters.is_empty() {
        return (stream.content.len() <= limit).then(|| stream.content.clone());
    }
    if filters.len() > 3 || !rows_are_sane(&stream.dict) {
        return None;
    }
    let mut data = std::borrow::Cow::Borrowed(stream.content.as_slice());
    for filter in filters {
        let out = match filter {
            b"FlateDecode" | b"Fl" => inflated(&data, limit)?,
            b"ASCIIHexDecode" | b"AHx" => from_hex(&data),
            b"ASCII85Decode" | b"A85" => by_library(b"ASCII85Decode", &data, None)?,
            b"LZWDecode" | b"LZW" if data.len() <= MAX_LZW_BYTES => by_library(b"LZWDecode", &data, None)?,
            _ => return None,
        };
        if out.len() > limit {
            return None;
        }
        data = std::borrow::Cow::Owned(out);
    }
    match stream.dict.get(b"DecodeParms").and_then(Object::as_dict) {
        // A predictor is undone by the library, which gets the data uncompressed: stored blocks need no memory.
        Ok(parameters) if parameters.get(b"Predictor").and_then(Object::as_i64).unwrap_or(1) > 1 => {
            let mut stored = Vec::new();
            let mut encoder = flate2::read::ZlibEncoder::new(&*data, flate2::Compression::none());
            encoder.read_to_end(&mut stored).ok()?;
            by_library(b"FlateDecode", &stored, Some(parameters))
        }
        _ => Some(data.into_owned()),
    }
}

fn by_library(filter: &[u8], data: &[u8], parameters: Option<&Dictionary>) -> Option<Vec<u8>> {
    let mut dictionary = Dictionary::new();
    dictionary.set("Filter", Object::Name(filter.to_vec()));
    if let Some(parameters) = parameters {
        dictionary.set("DecodeParms", parameters.clone());
    }
    Stream::new(dictionary, data.to_vec()).decompressed_content().ok()
}

/// What comes out before an error counts: checksums at the end are often wrong.
fn inflated(data: &[u8], limit: usize) -> Option<Vec<u8>> {
    let bounded = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    let mut out = Vec::new();
    if ZlibDecoder::new(data).take(bounded).read_to_end(&mut out).is_err() && out.is_empty() {
        let headless = data.get(2..).unwrap_or_default();
        let _ = DeflateDecoder::new(headless).take(bounded).read_to_end(&mut out);
    }
    (out.len() <= limit).then_some(out)
}

fn from_hex(data: &[u8]) -> Vec<u8> {
    let digits: Vec<u8> = data
        .iter()
        .take_while(|byte| **byte != b'>')
        .filter_map(|byte| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair.iter().fold(0, |value, digit| value << 4 | digit) << (4 * (2 - pair.len())))
        .collect()
}

fn rows_are_sane(dictionary: &Dictionary) -> bool {
    let Ok(parameters) = dictionary.get(b"DecodeParms").and_then(Object::as_dict) else { return true };
    let value = |key: &[u8], default| parameters.get(key).and_then(Object::as_i64).unwrap_or(default);
    let row =
        value(b"Columns", 1).saturating_mul(value(b"Colors", 1)).saturating_mul(value(b"BitsPerComponent", 8)) / 8;
    row <= MAX_ROW_BYTES && value(b"Colors", 1) <= 64 && value(b"BitsPerComponent", 8) <= 64
}
