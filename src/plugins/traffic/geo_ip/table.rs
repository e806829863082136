//! Which network is where: lines `network|country|province|city|provider`, as the `geoCidr.txt` that Higress makes from
//! ip2region's `ip.merge.txt`. The most specific network that has an address decides.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

pub struct Table {
    /// By length of the prefix and network; the value is a place.
    networks: HashMap<(u8, u32), u32>,
    /// Lengths that occur, longest first.
    lengths: Vec<u8>,
    /// Each once: there are far fewer places than networks.
    places: Vec<[String; 4]>,
}

impl Table {
    /// Reads the table and counts the lines that are no entries.
    pub fn parse(text: &str) -> (Table, usize) {
        let mut table = Table { networks: HashMap::new(), lengths: Vec::new(), places: Vec::new() };
        let mut numbers: HashMap<[&str; 4], u32> = HashMap::new();
        let mut n_skipped = 0;
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let Some((network, place)) = entry(line) else {
                n_skipped += 1;
                continue;
            };
            let number = *numbers.entry(place).or_insert_with(|| {
                table.places.push(place.map(str::to_owned));
                u32::try_from(table.places.len() - 1).unwrap_or(u32::MAX)
            });
            table.networks.insert((network.prefix_len(), network.network().to_bits()), number);
        }
        table.lengths = table.networks.keys().map(|(length, _)| *length).collect();
        table.lengths.sort_unstable_by(|a, b| b.cmp(a));
        table.lengths.dedup();
        (table, n_skipped)
    }

    pub fn is_empty(&self) -> bool {
        self.networks.is_empty()
    }

    /// Country, province, city and provider.
    pub fn find(&self, address: Ipv4Addr) -> Option<[&str; 4]> {
        let number = self.lengths.iter().find_map(|length| {
            let mask = u32::MAX.checked_shl(32 - u32::from(*length)).unwrap_or(0);
            self.networks.get(&(*length, address.to_bits() & mask))
        })?;
        self.places.get(*number as usize).map(|place| place.each_ref().map(String::as_str))
    }
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
}
