//! Which of what a store holds is in force: documents that are good, and the last good ones for those that are not. Pure.

use std::sync::Arc;

use super::weigh::{InForce, weigh_overlay};
use super::{LoadedPolicy, list};
use crate::model::{self, Effort, EndpointPolicy, Overlay, Policy, Problem, Unread};
use crate::source::policy_store::{Held, OverlayText, StoredPolicy, Trouble, Unconfirmed, Written, etag};

/// What is in force and what was wrong with the rest.
#[derive(Debug, Default)]
pub(super) struct Judge {
    /// The last good version; `None` = none was ever heard.
    policy: Option<Good>,
    /// The last good overlay; `None` = there is none.
    overlay: Option<(Arc<OverlayText>, Arc<Overlay>)>,
    /// Whether the overlay, or that there is none, was ever heard.
    overlay_known: bool,
    loaded: Arc<LoadedPolicy>,
    /// What is refused now, so that each is counted once.
    refused: Vec<Refusal>,
    /// A document written by hand that could not become a version, and why.
    held_back: Option<(ByHand, HeldBack)>,
    /// Why `policy.file` is not in force. Whatever is put after it settles that.
    file: Option<Refusal>,
    /// The last text that was read, which is mostly the next one to be published.
    read: Option<(Arc<str>, Arc<Policy>)>,
    /// What may be an endpoint of a document that is put. Those in force are held against it where sources are joined: what is
    /// left of them serves.
    endpoints: Arc<EndpointPolicy>,
}

/// What a document is called that somebody wrote past every control plane.
const BY_HAND: &str = "the policy that was written by hand";

fn was_put(good: Option<&Good>) -> bool {
    good.is_some_and(|good| good.stored.is_some())
}

/// A version that is good.
#[derive(Clone, Debug)]
struct Good {
    /// `None` = nothing is stored.
    stored: Option<Arc<StoredPolicy>>,
    written: Arc<Policy>,
}

/// A document that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// `policy` or `overlay`.
    pub(super) document: &'static str,
    /// A stable word.
    pub(super) reason: &'static str,
    /// For people: what, where and why.
    text: String,
}

impl Refusal {
    /// A document that is no policy, or no overlay.
    fn invalid(document: &'static str, what: &str, problems: &[Problem]) -> Self {
        let reason = if model::is_empty(problems) { "empty" } else { "invalid" };
        let cure = match (document, reason) {
            ("overlay", "empty") => "; delete the key to have no overlay",
            _ => "",
        };
        Self { document, reason, text: format!("{what} is not valid: {}{cure}", list(problems)) }
    }

    /// `policy.file`, which took too much away when it was new. That what was put since takes less away is no confirmation.
    pub(super) fn held_before(file: &str) -> Self {
        let text = format!(
            "{file} was held back at an earlier start, since it takes much away, and has not changed since. If it is meant, put it \
             with `realmgate policy apply FILE --force`; else change it"
        );
        Self { document: "policy.file", reason: "mass_removal", text }
    }

    /// A document that takes too much away.
    pub(super) fn unconfirmed(document: &'static str, what: &str, unconfirmed: &Unconfirmed) -> Self {
        let Unconfirmed { removal, .. } = unconfirmed;
        // An overlay is not put: what stands at its key is all there is.
        let forced = match document {
            "overlay" => "confirm it",
            _ => "put it with `realmgate policy apply FILE --force`, or confirm it",
        };
        let line = unconfirmed.in_document();
        let cure = format!("if that is meant, {forced} in the document with {line}");
        Self { document, reason: "mass_removal", text: format!("{what} is held back: {removal}; {cure}") }
    }
}

/// Why a document that was written by hand could not become a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HeldBack {
    /// The store failed.
    Failed(String),
    /// It takes too much away from what the store had last.
    Unconfirmed(Unconfirmed),
}

/// A document that is good and no version yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ByHand {
    pub(super) text: Arc<str>,
}

impl ByHand {
    pub(super) fn etag(&self) -> String {
        etag(&*self.text)
    }
}

/// What a document that is good says.
#[derive(Clone, Debug)]
pub(super) struct Checked {
    /// As it is.
    pub(super) written: Arc<Policy>,
    /// As it would serve here.
    pub(super) policy: Arc<Policy>,
}

/// What follows from what a store holds.
#[derive(Debug)]
pub(super) struct Verdict {
    /// What is in force; the same as before where nothing changed.
    pub(super) loaded: Arc<LoadedPolicy>,
    /// Whether another document is in force than before.
    pub(super) is_new: bool,
    /// What was not refused before.
    pub(super) refusals: Vec<Refusal>,
    /// What has to become a version to be in force.
    pub(super) by_hand: Option<ByHand>,
}

/// What a document is checked against, as of one moment: the work is done without keeping the judge.
#[derive(Clone, Debug, Default)]
pub(super) struct Basis {
    overlay: Option<(Arc<OverlayText>, Arc<Overlay>)>,
    read: Option<(Arc<str>, Arc<Policy>)>,
    endpoints: Arc<EndpointPolicy>,
    /// What would be replaced.
    pub(super) in_force: InForce,
    /// What serves.
    pub(super) loaded: Arc<LoadedPolicy>,
}

impl Basis {
    /// What a text says, and what it would be in force as, with the overlay of then.
    pub(super) fn check(&self, text: &str, effort: &Effort<'_>) -> Result<Checked, Unread> {
        let written = match self.read.as_ref().filter(|(known, _)| &**known == text) {
            Some((_, policy)) => Arc::clone(policy),
            None => Arc::new(model::parse_within(text, effort)?),
        };
        let problems = model::endpoint_problems(text, &written, &self.endpoints);
        if !problems.is_empty() {
            return Err(Unread::Invalid(problems));
        }
        let Some((source, overlay)) = &self.overlay else {
            return Ok(Checked { policy: Arc::clone(&written), written });
        };
        let policy = overlay.over_within(&written, effort).map_err(|mut unread| {
            if let Unread::Invalid(problems) = &mut unread {
                for problem in problems {
                    problem.message = format!("{} (with the overlay {})", problem.message, source.key);
                }
            }
            unread
        })?;
        Ok(Checked { written, policy: Arc::new(policy) })
    }
}

impl Judge {
    /// Documents that are put are held against this.
    pub(super) fn hold_against(&mut self, endpoints: Arc<EndpointPolicy>) {
        self.endpoints = endpoints;
    }

    /// What a text says, and what it would be in force as, with the overlay of now.
    pub(super) fn check(&mut self, text: &str) -> Result<Checked, Vec<Problem>> {
        let checked = match self.basis().check(text, &Effort::endless()) {
            Ok(checked) => checked,
            Err(Unread::Invalid(problems)) => return Err(problems),
            // Nobody ended it.
            Err(Unread::Stopped) => return Err(Vec::new()),
        };
        self.remember(text.into(), &checked);
        Ok(checked)
    }

    /// All that a document is checked against.
    pub(super) fn basis(&self) -> Basis {
        Basis {
            overlay: self.overlay.clone(),
            read: self.read.clone(),
            endpoints: Arc::clone(&self.endpoints),
            in_force: self.in_force(),
            loaded: Arc::clone(&self.loaded),
        }
    }

    /// Keeps what was read, since it is mostly the next one to be published.
    pub(super) fn remember(&mut self, text: Arc<str>, checked: &Checked) {
        self.read = Some((text, Arc::clone(&checked.written)));
    }

    /// What is in force, for weighing what would replace it.
    pub(super) fn in_force(&self) -> InForce {
        let overlay = self.overlay.as_ref().map(|(_, overlay)| Arc::clone(overlay));
        let Some(good) = &self.policy else { return InForce { overlay, ..InForce::default() } };
        let etag = good.stored.as_ref().map_or_else(String::new, |stored| stored.info.etag.clone());
        InForce { etag, written: Arc::clone(&good.written), overlay }
    }

    fn read(&mut self, text: &Arc<str>) -> Result<Arc<Policy>, Vec<Problem>> {
        if let Some((_, policy)) = self.read.as_ref().filter(|(known, _)| known == text) {
            return Ok(Arc::clone(policy));
        }
        let policy = Arc::new(model::parse(text)?);
        self.read = Some((Arc::clone(text), Arc::clone(&policy)));
        Ok(policy)
    }

    /// Takes what a store holds now.
    pub(super) fn take(&mut self, held: &Held) -> Verdict {
        let mut lost = Vec::new();
        let mut refused = Vec::new();
        for (document, trouble) in [("policy", &held.policy.trouble), ("overlay", &held.overlay.trouble)] {
            match trouble {
                Some(Trouble::Refused { reason, text }) => {
                    refused.push(Refusal { document, reason, text: text.clone() });
                }
                // Both are lost together.
                Some(Trouble::Lost(text)) if !lost.contains(text) => lost.push(text.clone()),
                _ => {}
            }
        }
        if held.overlay.heard {
            refused.extend(self.take_overlay(held.overlay.value.as_ref()));
        }
        let mut by_hand = None;
        let mut next = self.policy.clone();
        if let Some(last) = held.last.as_ref().filter(|_| !was_put(next.as_ref())) {
            next = self.good(last).ok().or(next);
        }
        match &held.policy.value {
            _ if !held.policy.heard => {}
            Written::Nothing => match next.as_ref().and_then(|good| good.stored.as_deref()) {
                // Nobody takes a policy away by losing it.
                Some(StoredPolicy { info, .. }) => lost.push(format!(
                    "the policy store has lost the policy; version {} serves on. Put it again",
                    info.version
                )),
                None => next = Some(Good { stored: None, written: Arc::default() }),
            },
            Written::Version(stored) => match self.good(stored) {
                Ok(good) => next = Some(good),
                Err(problems) => {
                    let what = format!("version {}", stored.info.version);
                    refused.push(Refusal::invalid("policy", &what, &problems));
                }
            },
            Written::ByHand(text) => match self.take_by_hand(text) {
                Ok(document) => by_hand = Some(document),
                Err(refusal) => refused.push(refusal),
            },
        }
        self.held_back.take_if(|(document, _)| by_hand.as_ref() != Some(document));
        match self.held_back.as_ref().map(|(_, why)| why) {
            Some(HeldBack::Failed(problem)) => lost.push(problem.clone()),
            Some(HeldBack::Unconfirmed(unconfirmed)) => {
                refused.push(Refusal::unconfirmed("policy", BY_HAND, unconfirmed));
                by_hand = None;
            }
            None => {}
        }
        let good = self.put_together(next, &mut refused);
        if good.as_ref().is_some_and(|good| good.stored != self.loaded.stored) {
            self.file = None;
        }
        refused.extend(self.file.clone());
        let is_new = good.is_some();
        lost.extend(refused.iter().map(|refusal| refusal.text.clone()));
        let problem = (!lost.is_empty()).then(|| lost.join("; "));
        let loaded = LoadedPolicy { problem, ..good.unwrap_or_else(|| LoadedPolicy::clone(&self.loaded)) };
        if *self.loaded != loaded {
            self.loaded = Arc::new(loaded);
        }
        let refusals = refused.iter().filter(|now| !self.refused.contains(now)).cloned().collect();
        self.refused = refused;
        Verdict { loaded: Arc::clone(&self.loaded), is_new, refusals, by_hand }
    }

    /// A version as what is in force, if it is good.
    fn good(&mut self, stored: &Arc<StoredPolicy>) -> Result<Good, Vec<Problem>> {
        let written = match self.read(&stored.text) {
            // Releases before took it for a policy that routes nothing, and as such it is in force.
            Err(problems) if model::is_empty(&problems) => Arc::default(),
            read => read?,
        };
        Ok(Good { stored: Some(Arc::clone(stored)), written })
    }

    /// A document that was written by hand, if it can become a version.
    fn take_by_hand(&mut self, text: &Arc<str>) -> Result<ByHand, Refusal> {
        let Checked { written, .. } =
            self.check(text).map_err(|problems| Refusal::invalid("policy", BY_HAND, &problems))?;
        self.in_force().weigh(&written).map_err(|held| Refusal::unconfirmed("policy", BY_HAND, &held))?;
        Ok(ByHand { text: Arc::clone(text) })
    }

    /// Remembers why a document that was written by hand is not in force, for as long as it stands there.
    pub(super) fn hold_back(&mut self, document: ByHand, why: HeldBack) {
        self.held_back = Some((document, why));
    }

    /// Remembers why `policy.file` is not in force.
    pub(super) fn hold_file_back(&mut self, refusal: Refusal) {
        self.file = Some(refusal);
    }

    /// Takes an overlay that can be read and does not take too much away; what is wrong with one that cannot be taken.
    fn take_overlay(&mut self, now: Option<&Arc<OverlayText>>) -> Option<Refusal> {
        let known = self.overlay.as_ref().map(|(known, _)| known);
        if self.overlay_known && known == now {
            return None;
        }
        let Some(named) = now.or(known).cloned() else {
            self.overlay_known = true;
            return None;
        };
        let read = match now.map(|now| model::parse_overlay(&now.text)).transpose() {
            Ok(read) => read.map(Arc::new),
            Err(problems) => return Some(Refusal::invalid("overlay", &named.key, &problems)),
        };
        if let Err(unconfirmed) = self.weigh_overlay(read.as_deref()) {
            return Some(Refusal::unconfirmed("overlay", &named.key, &unconfirmed));
        }
        self.overlay = now.cloned().zip(read);
        self.overlay_known = true;
        None
    }

    /// Whether another overlay, or none, takes too much away from what serves.
    fn weigh_overlay(&self, overlay: Option<&Overlay>) -> Result<(), Unconfirmed> {
        let Some(good) = self.policy.as_ref().filter(|_| self.loaded.known) else { return Ok(()) };
        let served = match overlay {
            None => Arc::clone(&good.written),
            // What does not fit is another fault, found where all is put together.
            Some(overlay) => {
                overlay.over(&good.written).map_or_else(|_| Arc::clone(&self.loaded.policy), Arc::new)
            }
        };
        let replaced = match &self.overlay {
            Some((source, _)) => etag(&*source.text),
            None => self.in_force().etag,
        };
        let confirm_removal = overlay.and_then(|overlay| overlay.confirm_removal.as_deref());
        weigh_overlay(&self.loaded.policy, &served, replaced, confirm_removal)
    }

    /// What is in force from now on if that is something else.
    fn put_together(&mut self, next: Option<Good>, refused: &mut Vec<Refusal>) -> Option<LoadedPolicy> {
        let Good { stored, written } = next.filter(|_| self.overlay_known)?;
        let now = self.overlay.as_ref().map(|(source, _)| source);
        if self.loaded.known && self.loaded.stored == stored && self.loaded.overlay.as_ref() == now {
            return None;
        }
        let policy = match &self.overlay {
            None => Arc::clone(&written),
            Some((source, overlay)) => match overlay.over(&written) {
                Ok(policy) => Arc::new(policy),
                Err(problems) => {
                    let version = stored.as_ref().map_or(0, |stored| stored.info.version);
                    let problems = list(&problems);
                    let text =
                        format!("{} makes version {version} of the policy invalid: {problems}", source.key);
                    refused.push(Refusal { document: "overlay", reason: "invalid", text });
                    return None;
                }
            },
        };
        // Another text that says the same: what was compiled of it stays, and whoever waits for it has it.
        let same = self.loaded.policy == policy;
        let policy = if same { Arc::clone(&self.loaded.policy) } else { policy };
        let overlay = now.cloned();
        self.policy = Some(Good { stored: stored.clone(), written: Arc::clone(&written) });
        Some(LoadedPolicy { known: true, stored, written, overlay, policy, problem: None })
    }
}

#[cfg(test)]
mod tests;
