//! `query_per_second` and its longer sisters, which both rate limits have.

use crate::plugins::config::Fields;

/// So many requests in so many seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub limit: u64,
    pub seconds: u64,
}

const FIELDS: [(&str, u64); 4] =
    [("query_per_second", 1), ("query_per_minute", 60), ("query_per_hour", 3600), ("query_per_day", 86400)];

impl Rate {
    /// The one rate among the fields; none or several are reported.
    pub fn read(fields: &mut Fields<'_>) -> Option<Rate> {
        let mut found = Vec::new();
        for (field, seconds) in FIELDS {
            found.extend(fields.count(field).filter(|limit| *limit > 0).map(|limit| Rate { limit, seconds }));
        }
        if found.len() != 1 && fields.is_usable() {
            let message = "or exactly one of query_per_minute, query_per_hour, query_per_day must be a number above 0";
            fields.problem("query_per_second", message);
        }
        found.first().copied()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_field_is_an_interval() {
        for (field, seconds) in
            [("query_per_second", 1), ("query_per_minute", 60), ("query_per_hour", 3600), ("query_per_day", 86400)]
        {
            let value = json!({field: 3});
            let mut fields = Fields::of(&value, "");
            assert_eq!(Rate::read(&mut fields), Some(Rate { limit: 3, seconds }), "{field}");
            assert_eq!(fields.finish(), []);
        }
    }
}
