//! What a configuration may contain: the directives the engine carries out, and some that concern nothing here.
//!
//! Carried out: `SecRule`, `SecAction`, `SecMarker`, `SecRuleEngine`, `SecDefaultAction`, `SecRuleRemoveById`,
//! `SecRuleUpdateTargetById`, `Include`. Accepted without effect, because bodies are always inspected up to the gateway's own
//! limit and logs are the gateway's: [`WITHOUT_EFFECT`] and the directives of the engine's own body limits.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use zentinel_modsec::CompiledRuleset;
use zentinel_modsec::engine::phase::Phase;
use zentinel_modsec::parser::{Action, Directive, MetadataAction, Parser};

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
    "SecRequestBodyLimitAction",
    "SecRequestBodyNoFilesLimit",
    "SecResponseBodyLimitAction",
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
        if let Err(error) = parser.parse(text) {
            found.push((index, format!("cannot be used: {error}")));
            continue;
        }
        found.extend(parser.into_directives().iter().filter_map(unsupported).map(|message| (index, message)));
    }
    if found.is_empty() && !own.is_empty() {
        match CompiledRuleset::from_string(&own.join("\n")) {
            Err(error) => found.push((0, format!("cannot be used together with the others: {error}"))),
            Ok(rules) => {
                let late = [Phase::ResponseHeaders, Phase::ResponseBody, Phase::Logging];
                let n_late: usize = late.iter().map(|phase| rules.rules_for_phase(*phase).len()).sum();
                if n_late > 0 {
                    found.push((
                        0,
                        format!(
                            "or a later element has {n_late} rules of the phases 3 to 5, which are not run; use 1 or 2"
                        ),
                    ));
                }
            }
        }
    }
    found
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

const PHASES: [Phase; 2] = [Phase::RequestHeaders, Phase::RequestBody];

/// Rules with a message.
pub fn telling(rules: &CompiledRuleset) -> HashSet<String> {
    let all = PHASES.into_iter().flat_map(|phase| rules.rules_for_phase(phase));
    let tells = |action: &Action| matches!(action, Action::Metadata(MetadataAction::Msg(_)));
    all.filter(|rule| rule.actions.iter().any(tells)).filter_map(|rule| rule.id.clone()).collect()
}

/// The answer's status of each rule that names one.
pub fn statuses(rules: &CompiledRuleset) -> HashMap<String, u16> {
    let all = PHASES.into_iter().flat_map(|phase| rules.rules_for_phase(phase));
    let status = |action: &Action| match action {
        Action::Metadata(MetadataAction::Status(status)) => Some(*status).filter(|status| (200..600).contains(status)),
        _ => None,
    };
    all.filter_map(|rule| Some((rule.id.clone()?, rule.actions.iter().find_map(status)?))).collect()
}

/// Directives that load the Core Rule Set from a folder laid out as its releases are. The rules about answers are left out: they are
/// not run, and some of them the engine cannot read.
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
    Ok(format!("Include \"{found}/crs-setup.conf\"\nInclude \"{found}/rules/REQUEST-*.conf\"\nSecRuleEngine On\n"))
}
