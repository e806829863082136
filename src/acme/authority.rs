//! One certificate for one domain: account, order, challenge, key, chain.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use instant_acme::{
    AuthorizationStatus, ChallengeHandle, ChallengeType, Identifier, NewOrder, Order, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, CustomExtension, KeyPair};

use super::{Answer, DerKey, Issued, Stage, Transport, account};
use crate::base::secret::Secret;
use crate::config::settings::AcmeChallenge;

/// How long the authority may take to look, and then to issue.
const PATIENCE: RetryPolicy = RetryPolicy::new().timeout(Duration::from_secs(120));

/// An authority and the ways to it.
pub struct Authority {
    /// URL of its directory.
    pub directory: String,
    pub challenge: AcmeChallenge,
    /// Of the account.
    pub file: PathBuf,
    pub transport: Arc<dyn Transport>,
    pub stage: Arc<dyn Stage>,
}

impl Authority {
    /// Gets a certificate for `domain`. `email` is told to the authority when the account is made.
    ///
    /// # Errors
    /// Why there is none, in words; the authority's where it gave any.
    pub async fn issue(&self, domain: &str, email: Option<&str>) -> Result<Issued, String> {
        let mut account = account::account(&self.directory, email, &self.file, &self.transport).await?;
        let identifiers = [Identifier::Dns(domain.to_owned())];
        let mut order = account.new_order(&NewOrder::new(&identifiers)).await;
        if order.as_ref().is_err_and(is_lost_account) {
            tracing::warn!(
                directory = self.directory,
                "The authority does not know the account any more; a new one is made"
            );
            account = account::new_account(&self.directory, email, &self.file, &self.transport).await?;
            order = account.new_order(&NewOrder::new(&identifiers)).await;
        }
        let mut order = order.map_err(|error| {
            let hint = match is_of_kind(&error, ":unauthorized") {
                true => {
                    format!(". If the account is no longer valid, move {} away: a new one is made", self.file.display())
                }
                false => String::new(),
            };
            format!("the order is refused: {error}{hint}")
        })?;
        let shown = self.prove(&mut order, domain).await?;
        let status = order.poll_ready(&PATIENCE).await;
        drop(shown);
        let refused = match status {
            Ok(OrderStatus::Invalid) => Some(refusal(&mut order).await),
            Ok(_) => None,
            Err(error) => Some(format!("the challenge failed: {error}")),
        };
        if let Some(refusal) = refused {
            let port = match self.challenge {
                AcmeChallenge::Http01 => 80,
                AcmeChallenge::TlsAlpn01 => 443,
            };
            return Err(format!("{refusal}. The domain must lead to this gateway's port {port}"));
        }
        let failed = |error: instant_acme::Error| format!("the certificate is not issued: {error}");
        let key = order.finalize().await.map_err(failed)?;
        let chain = order.poll_certificate(&PATIENCE).await.map_err(failed)?;
        Ok(Issued { chain, key: Secret::new(key) })
    }

    /// Shows the answers to the challenges and says that they can be looked at.
    async fn prove(&self, order: &mut Order, domain: &str) -> Result<Vec<Shown<'_>>, String> {
        let mut shown = Vec::new();
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(|error| error.to_string())?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let (kind, name) = match self.challenge {
                AcmeChallenge::Http01 => (ChallengeType::Http01, "http-01"),
                AcmeChallenge::TlsAlpn01 => (ChallengeType::TlsAlpn01, "tls-alpn-01"),
            };
            let challenge = authorization.challenge(kind);
            let mut challenge = challenge.ok_or_else(|| format!("the authority offers no challenge {name}"))?;
            let answer = answer(self.challenge, domain, &challenge)?;
            self.stage.show(&answer)?;
            shown.push(Shown { stage: &*self.stage, answer });
            challenge.set_ready().await.map_err(|error| error.to_string())?;
        }
        Ok(shown)
    }
}

/// It was reset, or made anew.
fn is_lost_account(error: &instant_acme::Error) -> bool {
    is_of_kind(error, ":accountDoesNotExist")
}

/// By the end of the problem's URN.
fn is_of_kind(error: &instant_acme::Error, wanted: &str) -> bool {
    let kind = match error {
        instant_acme::Error::Api(problem) => problem.r#type.as_deref(),
        _ => None,
    };
    kind.is_some_and(|kind| kind.ends_with(wanted))
}

/// An answer that is removed when nobody looks any more.
struct Shown<'a> {
    stage: &'a dyn Stage,
    answer: Answer,
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        self.stage.remove(&self.answer);
    }
}

fn answer(kind: AcmeChallenge, domain: &str, challenge: &ChallengeHandle<'_>) -> Result<Answer, String> {
    let proof = challenge.key_authorization();
    match kind {
        AcmeChallenge::Http01 => Ok(Answer::Http { token: challenge.token.clone(), text: proof.as_str().to_owned() }),
        AcmeChallenge::TlsAlpn01 => {
            let made = || {
                let key = KeyPair::generate()?;
                let mut params = CertificateParams::new(vec![domain.to_owned()])?;
                params.custom_extensions = vec![CustomExtension::new_acme_identifier(proof.digest().as_ref())];
                Ok((params.self_signed(&key)?.der().to_vec(), DerKey(key.serialize_der())))
            };
            let (certificate, key) = made().map_err(|error: rcgen::Error| error.to_string())?;
            Ok(Answer::Tls { domain: domain.to_owned(), certificate, key })
        }
    }
}

/// What the authority found wrong.
async fn refusal(order: &mut Order) -> String {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        if let Ok(state) = authorization.refresh().await
            && let Some(error) = state.challenges.iter().find_map(|challenge| challenge.error.as_ref())
        {
            return format!("the challenge failed: {error}");
        }
    }
    "the challenge failed".to_owned()
}
