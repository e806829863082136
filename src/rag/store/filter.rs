//! Conditions on rows, as the SQL that Lance's scanner understands. Values are quoted here and nowhere else.

use std::collections::BTreeMap;
use std::fmt::Write;

/// Which rows a search may see. All conditions hold together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only rows without a tenant, and rows of this one.
    pub tenant: Option<String>,
    /// Only these documents.
    pub documents: Vec<String>,
    /// Only these passages.
    pub ids: Vec<String>,
    /// Metadata fields and the value each must have.
    pub metadata: BTreeMap<String, String>,
    /// Rows of all tenants: for the operator's lists, never for a search on somebody's behalf.
    pub all_tenants: bool,
}

impl Filter {
    /// Lets every row through.
    pub fn everything() -> Filter {
        Filter { all_tenants: true, ..Filter::default() }
    }

    /// The condition that keeps tenants apart is always there: a caller without a tenant sees what belongs to nobody.
    pub fn sql(&self) -> String {
        let mut sql = match &self.tenant {
            _ if self.all_tenants => "true".to_owned(),
            None => "tenant IS NULL".to_owned(),
            Some(tenant) => format!("(tenant IS NULL OR tenant = {})", literal(tenant)),
        };
        if !self.documents.is_empty() {
            let _ = write!(sql, " AND {}", in_list("document", &self.documents));
        }
        if !self.ids.is_empty() {
            let _ = write!(sql, " AND {}", in_list("id", &self.ids));
        }
        for (field, value) in &self.metadata {
            let member = member(field, value);
            let (first, later) = (literal(&format!("{{{member}")), literal(&format!(",{member}")));
            let _ = write!(sql, " AND (strpos(metadata, {first}) = 1 OR strpos(metadata, {later}) > 0)");
        }
        sql
    }
}

/// `column IN ('a', 'b')`.
pub fn in_list(column: &str, values: &[String]) -> String {
    format!("{column} IN ({})", values.iter().map(|value| literal(value)).collect::<Vec<_>>().join(", "))
}

/// A string literal. Quotes are doubled; there are no other escapes.
pub fn literal(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

/// The member as it stands in the stored JSON object, at its beginning or behind a comma. A quote inside a string is written `\"`
/// there, so neither text can occur inside a name or a value.
fn member(field: &str, value: &str) -> String {
    format!("{}:{}", serde_json::Value::from(field), serde_json::Value::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_joined_and_values_quoted() {
        let check = |filter: Filter, expected: &str| assert_eq!(filter.sql(), expected);
        check(Filter::default(), "tenant IS NULL");
        let filter = Filter {
            tenant: Some("o'neil".into()),
            documents: vec!["a".into(), "b' OR '1'='1".into()],
            metadata: BTreeMap::from([("lang".into(), "a\"b'c".into())]),
            ..Filter::default()
        };
        check(
            filter,
            r#"(tenant IS NULL OR tenant = 'o''neil') AND document IN ('a', 'b'' OR ''1''=''1') AND (strpos(metadata, '{"lang":"a\"b''c"') = 1 OR strpos(metadata, ',"lang":"a\"b''c"') > 0)"#,
        );
    }
}
