//! Which address is where: lines `network|country|province|city|provider`, as the `geoCidr.txt` that Higress makes from
//! ip2region's `ip.merge.txt` (the most specific network that has an address decides), or ip2region's own binary file,
//! version 2 (`.xdb`).

use std::collections::HashMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

pub struct Table {
    index: Index,
    /// Country, province, city and provider; each once, because there are far fewer than networks.
    places: Vec<[String; 4]>,
}

enum Index {
    Networks {
        /// By length of the prefix and network; the value is a place.
        by_length: HashMap<(u8, u32), u32>,
        /// Lengths that occur, longest first.
        lengths: Vec<u8>,
    },
    /// Ascending and apart from each other: first and last address, place.
    Ranges(Vec<(u32, u32, u32)>),
}

impl Table {
    /// Reads the table and counts the lines that are no entries.
    pub fn parse(text: &str) -> (Table, usize) {
        let mut places = Vec::new();
        let mut numbers = HashMap::new();
        let mut by_length = HashMap::new();
        let mut n_skipped = 0;
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let Some((network, place)) = entry(line) else {
                n_skipped += 1;
                continue;
            };
            let number = *numbers.entry(place).or_insert_with(|| push(&mut places, place));
            by_length.insert((network.prefix_len(), network.network().to_bits()), number);
        }
        let mut lengths: Vec<u8> = by_length.keys().map(|(length, _)| *length).collect();
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        lengths.dedup();
        (Table { index: Index::Networks { by_length, lengths }, places }, n_skipped)
    }

    /// Reads ip2region's file: a header with the place of the first and the last segment, and segments of first address, last
    /// address, length and place of a text `country|area|province|city|provider`. All numbers are little endian.
    ///
    /// # Errors
    /// It is no such file, or damaged.
    pub fn parse_xdb(bytes: &[u8]) -> Result<Table, String> {
        const VERSION: u16 = 2;
        const SEGMENT: usize = 14;
        let damaged = || "is no ip2region file of version 2, or damaged".to_owned();
        let number = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let short = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let header = (short(0), number(8), number(12));
        let (Some(VERSION), Some(first), Some(last)) = header else { return Err(damaged()) };
        let mut places = Vec::new();
        // Equal texts stand in the file once.
        let mut numbers = HashMap::new();
        let mut ranges =
            Vec::with_capacity((last.saturating_sub(first) as usize / SEGMENT + 1).min(bytes.len() / SEGMENT));
        for at in (first as usize..=last as usize).step_by(SEGMENT) {
            let segment = (number(at), number(at + 4), short(at + 8), number(at + 10));
            let (Some(from), Some(to), Some(length), Some(text)) = segment else { return Err(damaged()) };
            let place = match numbers.get(&text) {
                Some(known) => *known,
                None => {
                    let bytes = bytes.get(text as usize..text as usize + usize::from(length)).ok_or_else(damaged)?;
                    let read = std::str::from_utf8(bytes).ok().and_then(columns).ok_or_else(damaged)?;
                    let [country, _, province, city, provider] = read;
                    let number = push(&mut places, [country, province, city, provider]);
                    numbers.insert(text, number);
                    number
                }
            };
            ranges.push((from, to, place));
        }
        if !ranges.is_sorted_by(|a, b| a.1 < b.0) {
            return Err(damaged());
        }
        Ok(Table { index: Index::Ranges(ranges), places })
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Country, province, city and provider.
    pub fn find(&self, address: Ipv4Addr) -> Option<[&str; 4]> {
        let address = address.to_bits();
        let number = match &self.index {
            Index::Networks { by_length, lengths } => *lengths.iter().find_map(|length| {
                let mask = u32::MAX.checked_shl(32 - u32::from(*length)).unwrap_or(0);
                by_length.get(&(*length, address & mask))
            })?,
            Index::Ranges(ranges) => {
                let (_, last, number) =
                    ranges.get(ranges.partition_point(|(first, ..)| *first <= address).checked_sub(1)?)?;
                Some(*number).filter(|_| address <= *last)?
            }
        };
        self.places.get(number as usize).map(|place| place.each_ref().map(String::as_str))
    }
}

/// The number of a new place.
fn push(places: &mut Vec<[String; 4]>, place: [&str; 4]) -> u32 {
    places.push(place.map(str::to_owned));
    u32::try_from(places.len() - 1).unwrap_or(u32::MAX)
}

/// The columns of a segment's text; `0` stands for nothing.
fn columns(text: &str) -> Option<[&str; 5]> {
    let mut columns = text.split('|').map(|column| if column == "0" { "" } else { column });
    Some([columns.next()?, columns.next()?, columns.next()?, columns.next()?, columns.next()?])
}

fn entry(line: &str) -> Option<(Ipv4Net, [&str; 4])> {
    let mut columns = line.split('|').map(str::trim);
    let network = columns.next()?.parse().ok()?;
    Some((network, [columns.next()?, columns.next()?, columns.next()?, columns.next()?]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_network_decides() {
        let text = "1.0.0.0/8|a|b|c|d\n 1.2.3.0/24 | e |f|g|h|more\n1.2.3.4/32|i|||\n0.0.0.0/0|all|||\n1.2.3|x|y|z|w\n\nshort|line\n";
        let (table, n_skipped) = Table::parse(text);
        assert_eq!(n_skipped, 2);
        for (address, country) in [("1.9.9.9", "a"), ("1.2.3.5", "e"), ("1.2.3.4", "i"), ("9.9.9.9", "all")] {
            assert_eq!(table.find(address.parse().unwrap()).unwrap()[0], country, "{address}");
        }
        assert_eq!(table.find("1.2.3.5".parse().unwrap()), Some(["e", "f", "g", "h"]));
        assert_eq!(Table::parse("1.0.0.0/8|a|b|c|d").0.find("2.0.0.0".parse().unwrap()), None);
    }

    /// A file with these segments; the index that ip2region's own reader uses is left out.
    fn xdb(segments: &[(&str, &str, &str)]) -> Vec<u8> {
        let mut bytes = vec![0; 256];
        let mut index = Vec::new();
        for (first, last, text) in segments {
            for address in [first, last] {
                index.extend(address.parse::<Ipv4Addr>().unwrap().to_bits().to_le_bytes());
            }
            index.extend(u16::try_from(text.len()).unwrap().to_le_bytes());
            index.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
            bytes.extend(text.as_bytes());
        }
        let first = u32::try_from(bytes.len()).unwrap();
        let last = first + u32::try_from(index.len()).unwrap() - 14;
        bytes.extend(index);
        bytes[..2].copy_from_slice(&2u16.to_le_bytes());
        bytes[8..12].copy_from_slice(&first.to_le_bytes());
        bytes[12..16].copy_from_slice(&last.to_le_bytes());
        bytes
    }

    #[test]
    fn files_of_ip2region_are_read_as_they_are() {
        let file = xdb(&[
            ("1.0.0.0", "1.0.0.255", "澳大利亚|0|0|0|0"),
            ("1.0.1.0", "1.0.3.255", "中国|0|福建省|福州市|电信"),
            ("9.0.0.0", "9.255.255.255", "美国|0|0|0|IBM"),
        ]);
        let table = Table::parse_xdb(&file).unwrap();
        for (address, expected) in [
            ("1.0.0.0", Some(["澳大利亚", "", "", ""])),
            ("1.0.3.255", Some(["中国", "福建省", "福州市", "电信"])),
            ("9.1.2.3", Some(["美国", "", "", "IBM"])),
            ("0.255.255.255", None),
            ("1.0.4.0", None),
            ("10.0.0.0", None),
        ] {
            assert_eq!(table.find(address.parse().unwrap()), expected, "{address}");
        }
        for n_bytes in 0..file.len() {
            assert!(Table::parse_xdb(&file[..n_bytes]).is_err(), "cut at {n_bytes}");
        }
    }
}
