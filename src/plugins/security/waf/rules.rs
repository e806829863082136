//! What a configuration may contain: the directives the engine carries out, and some that concern nothing here.
//!
//! Carried out: `SecRule`, `SecAction`, `SecMarker`, `SecRuleEngine`, `SecDefaultAction`, `SecRuleRemoveById`,
//! `SecRuleUpdateTargetById`, `Include`; by the plugin, `SecResponseBodyAccess` and `SecResponseBodyMimeType`. Accepted without
//! effect, because bodies are inspected up to the gateway's own limit and logs are the gateway's: [`WITHOUT_EFFECT`] and the
//! directives of the engine's own body limits.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use regex::Regex;
use zentinel_modsec::CompiledRuleset;
use zentinel_modsec::engine::phase::Phase;
use zentinel_modsec::parser::{
    Action, Directive, MetadataAction, OperatorName, OperatorSpec, Parser, Selection, VariableName,
};

use crate::config::re2::translated;

/// Beginnings of directives about logs, files and limits.
const WITHOUT_EFFECT: &[&str] = &[
    "SecArgumentSeparator",
    "SecArgumentsLimit",
    "SecAuditLog",
    "SecAuditEngine",
    "SecCollectionTimeout",
    "SecComponentSignature",
    "SecCookieFormat",
    "SecDataDir",
    "SecDebugLog",
    "SecPcreMatchLimit",
    "SecRequestBodyInMemoryLimit",
    "SecRequestBodyJsonDepthLimit",
    "SecRequestBodyLimit",
    "SecRequestBodyNoFilesLimit",
    "SecResponseBodyLimit",
    "SecResponseBodyMimeType",
    "SecStatusEngine",
    "SecTmpDir",
    "SecUnicodeMapFile",
    "SecUploadDir",
    "SecUploadFileMode",
    "SecUploadKeepFiles",
];

/// What is wrong with the rules of a configuration, by element. An element that begins a chain is read with those that end it,
/// so a problem may be told of the element before.
pub fn problems(own: &[String]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (index, text) in own.iter().enumerate() {
        let mut parser = Parser::new();
        if let Err(error) = parser.parse(&with_plain_ids(text)) {
            found.push((index, format!("cannot be used: {error}")));
            continue;
        }
        found.extend(parser.into_directives().iter().filter_map(unsupported).map(|message| (index, message)));
    }
    if found.is_empty() {
        match Compiled::of(&own.join("\n")) {
            Err(error) => found.push((0, format!("cannot be used together with the others: {error}"))),
            Ok(compiled) => found.extend(compiled.dead.into_iter().map(|(rule, reason)| {
                (0, format!("or a later element has an expression that is not understood, in rule {rule}: {reason}"))
            })),
        }
    }
    found
}

#[expect(clippy::expect_used, reason = "a constant expression, compiled in every test")]
static QUOTED_ID: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r#"([",\s])id:'([0-9]+)'"#).expect("the expression is valid"));

/// The engine reads the ids of rules without the quotes that the recommended configuration has.
fn with_plain_ids(text: &str) -> Cow<'_, str> {
    QUOTED_ID.replace_all(text, "${1}id:${2}")
}

fn unsupported(directive: &Directive) -> Option<String> {
    let name = match directive {
        Directive::Unknown(name) => name.as_str(),
        Directive::SecRuleUpdateActionById { .. } => "SecRuleUpdateActionById",
        _ => return None,
    };
    let is_harmless = WITHOUT_EFFECT
        .iter()
        .any(|known| name.get(..known.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(known)));
    (!is_harmless).then(|| format!("has the directive {name}, which is not supported"))
}

/// Where the status of an answer is kept for rules: the engine has `RESPONSE_STATUS`, and no way to be told it.
pub const RESPONSE_STATUS: &str = "weirgate_response_status";

/// Media types of answers that are inspected unless `SecResponseBodyMimeType` names others.
const INSPECTED_TYPES: [&str; 3] = ["text/plain", "text/html", "text/xml"];

/// Rules that can be run.
pub struct Compiled {
    pub rules: CompiledRuleset,
    /// Media types of answers whose bodies are inspected, in lower case; none without `SecResponseBodyAccess On`.
    pub inspected: Vec<String>,
    /// Rules whose expression the engine cannot read, each with the reason. They match nothing.
    pub dead: Vec<(String, String)>,
}

impl Compiled {
    /// Of directives as text, with the files that they include.
    ///
    /// # Errors
    /// The engine cannot read them.
    pub fn of(text: &str) -> zentinel_modsec::Result<Compiled> {
        let mut parser = Parser::new();
        parser.parse(&with_plain_ids(text))?;
        let mut directives = parser.into_directives();
        let access = directives.iter().rev().find_map(|directive| match directive {
            Directive::SecResponseBodyAccess(access) => Some(*access),
            _ => None,
        });
        let mut dead = Vec::new();
        for directive in &mut directives {
            let Directive::SecRule(rule) = directive else { continue };
            if let Err(reason) = make_readable(&mut rule.operator) {
                let id = rule.actions.iter().find_map(|action| match action {
                    Action::Metadata(MetadataAction::Id(id)) => Some(id.to_string()),
                    _ => None,
                });
                dead.push((id.unwrap_or_else(|| "a link of a chain".to_owned()), reason));
            }
            for variable in rule.variables.iter_mut().filter(|variable| variable.name == VariableName::ResponseStatus) {
                variable.name = VariableName::Tx;
                variable.selection = Some(Selection::Key(RESPONSE_STATUS.to_owned()));
            }
        }
        let inspected = if access == Some(true) { inspected_types(text) } else { Vec::new() };
        Ok(Compiled { rules: CompiledRuleset::compile(directives)?, inspected, dead })
    }
}

/// ModSecurity's expressions are those of PCRE, the engine's those of the crate `regex`: a brace that repeats nothing is itself there and an
/// error here. Looking around and referring back cannot be had.
fn make_readable(operator: &mut OperatorSpec) -> Result<(), String> {
    // With a macro it is compiled when it is run.
    if operator.name != OperatorName::Rx || operator.argument.contains("%{") {
        return Ok(());
    }
    let reason = |error: regex::Error| error.to_string().lines().last().unwrap_or_default().replace("error: ", "");
    let Err(error) = Regex::new(&operator.argument) else { return Ok(()) };
    let escaped = translated(&operator.argument);
    if Regex::new(&escaped).is_err() {
        return Err(reason(error));
    }
    operator.argument = escaped;
    Ok(())
}

/// The parser drops the arguments of what it does not know.
fn inspected_types(text: &str) -> Vec<String> {
    let named = text.lines().rev().find_map(|line| {
        let (name, types) = line.trim().split_once(char::is_whitespace)?;
        name.eq_ignore_ascii_case("SecResponseBodyMimeType").then_some(types)
    });
    match named {
        Some(types) => types.split_whitespace().map(|name| name.trim_matches('"').to_ascii_lowercase()).collect(),
        None => INSPECTED_TYPES.map(str::to_owned).to_vec(),
    }
}

/// Rules with a message.
pub fn telling(rules: &CompiledRuleset) -> HashSet<String> {
    let all = Phase::ALL.into_iter().flat_map(|phase| rules.rules_for_phase(phase));
    let tells = |action: &Action| matches!(action, Action::Metadata(MetadataAction::Msg(_)));
    all.filter(|rule| rule.actions.iter().any(tells)).filter_map(|rule| rule.id.clone()).collect()
}

/// The answer's status of each rule that names one.
pub fn statuses(rules: &CompiledRuleset) -> HashMap<String, u16> {
    let all = Phase::ALL.into_iter().flat_map(|phase| rules.rules_for_phase(phase));
    let status = |action: &Action| match action {
        Action::Metadata(MetadataAction::Status(status)) => Some(*status).filter(|status| (200..600).contains(status)),
        _ => None,
    };
    all.filter_map(|rule| Some((rule.id.clone()?, rule.actions.iter().find_map(status)?))).collect()
}

/// Of the configuration that the rule set comes with in Higress: what the engine cannot read its rules do not see.
const UNREADABLE_BODY: &str = "SecRule REQBODY_ERROR \"!@eq 0\" \
    \"id:200002,phase:2,t:none,deny,status:400,msg:'Failed to parse request body.'\"\n";

/// Directives that load the Core Rule Set from a folder laid out as its releases are. Answers are inspected, as by the
/// configuration that the rule set comes with in Higress. The file 980, which sums up a request for the audit log that there is
/// not, is left out: the engine cannot read that of version 3.3.
///
/// # Errors
/// It is not there; the message says what to do.
pub fn core_rule_set(folder: &Path) -> Result<String, String> {
    let is_whole = |folder: &PathBuf| folder.join("crs-setup.conf").is_file() && folder.join("rules").is_dir();
    // The engine finds nothing at a relative path, and says nothing.
    let Some(found) = folder.canonicalize().ok().filter(is_whole) else {
        return Err(format!(
            "needs the OWASP Core Rule Set: put a release's crs-setup.conf and rules/ into {}",
            folder.display()
        ));
    };
    let found = found.display();
    Ok(format!(
        "{UNREADABLE_BODY}SecResponseBodyAccess On\nInclude \"{found}/crs-setup.conf\"\nInclude \"{found}/rules/REQUEST-*.conf\"\n\
         Include \"{found}/rules/RESPONSE-95*.conf\"\nSecRuleEngine On\n"
    ))
}
