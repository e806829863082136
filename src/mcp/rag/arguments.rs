//! Arguments of a call, read with errors that the calling model can act on.

use rmcp::model::JsonObject;
use serde_json::Value;

use super::Failure;

pub struct Arguments(JsonObject);

impl Arguments {
    pub fn new(arguments: JsonObject) -> Arguments {
        Arguments(arguments)
    }

    /// A string that must be there; it may be empty.
    pub fn text(&self, name: &str) -> Result<&str, Failure> {
        match self.get(name) {
            Some(Value::String(text)) => Ok(text),
            Some(other) => Err(wrong(name, "a string", other)),
            None => Err(Failure::Call(format!("the argument \"{name}\" is missing: it is a string"))),
        }
    }

    /// A whole number, also as `5.0`: some clients have no other numbers.
    pub fn count(&self, name: &str) -> Result<Option<u64>, Failure> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let whole =
            value.as_f64().filter(|number| number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(number));
        match value.as_u64().or_else(|| whole.map(truncated)) {
            Some(number) => Ok(Some(number)),
            None => Err(wrong(name, "a whole number", value)),
        }
    }

    pub fn number(&self, name: &str) -> Result<Option<f64>, Failure> {
        match self.get(name) {
            None => Ok(None),
            Some(value) => value.as_f64().map(Some).ok_or_else(|| wrong(name, "a number", value)),
        }
    }

    /// `null` is the same as absent.
    fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole, and within a u32")]
fn truncated(number: f64) -> u64 {
    number as u64
}

fn wrong(name: &str, expected: &str, found: &Value) -> Failure {
    Failure::Call(format!("the argument \"{name}\" is {expected}, not {found}"))
}

#[cfg(test)]
mod tests {
    use rmcp::model::object;
    use serde_json::json;

    use super::*;

    fn message<T>(result: Result<T, Failure>) -> String {
        match result {
            Err(Failure::Call(message)) => message,
            Err(Failure::Gateway(message)) => panic!("not the gateway's fault: {message}"),
            Ok(_) => String::new(),
        }
    }

    #[test]
    fn arguments_are_read_or_said_to_be_wrong() {
        let arguments = object(json!({"text": "a", "five": 5, "float": 5.0, "half": 5.5, "less": -1, "nothing": null}));
        let arguments = Arguments::new(arguments);
        assert!(matches!(arguments.text("text"), Ok("a")));
        assert!(matches!(arguments.count("five"), Ok(Some(5))));
        assert!(matches!(arguments.count("float"), Ok(Some(5))));
        assert!(matches!(arguments.count("nothing"), Ok(None)));
        assert!(matches!(arguments.number("half"), Ok(Some(half)) if half > 5.4));
        assert_eq!(message(arguments.text("other")), "the argument \"other\" is missing: it is a string");
        assert_eq!(message(arguments.text("five")), "the argument \"five\" is a string, not 5");
        assert_eq!(message(arguments.count("half")), "the argument \"half\" is a whole number, not 5.5");
        assert_eq!(message(arguments.count("less")), "the argument \"less\" is a whole number, not -1");
        assert_eq!(message(arguments.number("text")), "the argument \"text\" is a number, not \"a\"");
    }
}
