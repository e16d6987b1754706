//! Which of what a store holds is in force: documents that are good, and the last good ones for those that are not. Pure.

use std::sync::Arc;

use super::{LoadedPolicy, list};
use crate::model::{self, Overlay, Policy, Problem};
use crate::source::policy_store::{Held, OverlayText, StoredPolicy, Trouble, Written, etag};

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
    held_back: Option<(ByHand, String)>,
    /// The last text that was read, which is mostly the next one to be published.
    read: Option<(Arc<str>, Arc<Policy>)>,
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

impl Judge {
    /// What a text would be in force as, with the overlay of now.
    pub(super) fn check(&mut self, text: &str) -> Result<Arc<Policy>, Vec<Problem>> {
        let written = self.read(&Arc::from(text))?;
        let Some((source, overlay)) = &self.overlay else { return Ok(written) };
        overlay.over(&written).map(Arc::new).map_err(|mut problems| {
            for problem in &mut problems {
                problem.message = format!("{} (with the overlay {})", problem.message, source.key);
            }
            problems
        })
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
        match &held.policy.value {
            _ if !held.policy.heard => {}
            Written::Nothing => next = Some(Good { stored: None, written: Arc::default() }),
            Written::Version(stored) => match self.read(&stored.text) {
                Ok(written) => next = Some(Good { stored: Some(Arc::clone(stored)), written }),
                Err(problems) => {
                    let text = format!("version {} is not valid: {}", stored.info.version, list(&problems));
                    refused.push(Refusal { document: "policy", reason: "invalid", text });
                }
            },
            Written::ByHand(text) => match self.check(text) {
                Ok(_) => by_hand = Some(ByHand { text: Arc::clone(text) }),
                Err(problems) => {
                    let text =
                        format!("the policy that was written by hand is not valid: {}", list(&problems));
                    refused.push(Refusal { document: "policy", reason: "invalid", text });
                }
            },
        }
        self.held_back.take_if(|(document, _)| by_hand.as_ref() != Some(document));
        lost.extend(self.held_back.as_ref().map(|(_, problem)| problem.clone()));
        let good = self.put_together(next, &mut refused);
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

    /// Remembers why a document that was written by hand is not in force, for as long as it stands there.
    pub(super) fn hold_back(&mut self, document: ByHand, problem: String) {
        self.held_back = Some((document, problem));
    }

    /// Takes an overlay that can be read; what is wrong with one that cannot.
    fn take_overlay(&mut self, now: Option<&Arc<OverlayText>>) -> Option<Refusal> {
        let Some(now) = now else {
            (self.overlay, self.overlay_known) = (None, true);
            return None;
        };
        if self.overlay.as_ref().is_some_and(|(known, _)| known == now) {
            return None;
        }
        match model::parse_overlay(&now.text) {
            Ok(overlay) => {
                self.overlay = Some((Arc::clone(now), Arc::new(overlay)));
                self.overlay_known = true;
                None
            }
            Err(problems) => {
                let text = format!("{} is not valid: {}", now.key, list(&problems));
                Some(Refusal { document: "overlay", reason: "invalid", text })
            }
        }
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
mod tests {
    use super::*;
    use crate::source::policy_store::{PolicyInfo, Slot};

    fn policy(service: &str) -> String {
        format!("services: [{{name: {service}, endpoints: ['10.0.0.1:1']}}]")
    }

    fn version(version: u64, text: &str) -> Written {
        let (author, message) = ("ada".to_owned(), String::new());
        let info = PolicyInfo { version, etag: etag(text), author, time: 0, message };
        Written::Version(Arc::new(StoredPolicy { info, text: text.into() }))
    }

    fn heard<T: Default>(value: T) -> Slot<T> {
        Slot { heard: true, value, ..Slot::default() }
    }

    fn held(written: Written, overlay: Option<&str>) -> Held {
        let overlay = overlay.map(|text| OverlayText { key: "p/overlay/aws".to_owned(), text: text.into() });
        Held { policy: heard(written), overlay: heard(overlay.map(Arc::new)) }
    }

    fn services(verdict: &Verdict) -> String {
        let names: Vec<_> = verdict.loaded.policy.services.iter().map(|s| s.name.as_str()).collect();
        names.join(" ")
    }

    /// Version in force, services, and what was refused for the first time.
    fn outcome(verdict: &Verdict) -> (u64, String, Vec<(&'static str, &'static str)>) {
        let version = verdict.loaded.stored.as_ref().map_or(0, |stored| stored.info.version);
        let refusals = verdict.refusals.iter().map(|refusal| (refusal.document, refusal.reason));
        (version, services(verdict), refusals.collect())
    }

    #[test]
    fn nothing_is_known_before_both_documents_were_heard() {
        let mut judge = Judge::default();
        let mut half = held(version(1, &policy("a")), None);
        half.overlay.heard = false;
        let verdict = judge.take(&half);
        assert!(!verdict.loaded.known && !verdict.is_new);
        let verdict = judge.take(&held(version(1, &policy("a")), None));
        assert!(verdict.loaded.known && verdict.is_new);
        let nothing = Judge::default().take(&held(Written::Nothing, None));
        assert!(nothing.loaded.known && nothing.loaded.problem.is_none(), "an empty store is no fault");
        let broken = Judge::default().take(&held(version(1, "routes: 5"), None));
        assert!(!broken.loaded.known && broken.loaded.problem.is_some(), "there is no last good one");
    }

    #[test]
    fn a_broken_policy_is_refused_once_and_the_last_good_one_stays() {
        let mut judge = Judge::default();
        judge.take(&held(version(1, &policy("a")), None));
        let broken = held(version(2, "routes: 5"), None);
        let verdict = judge.take(&broken);
        assert_eq!(outcome(&verdict), (1, "a".to_owned(), vec![("policy", "invalid")]));
        let problem = verdict.loaded.problem.clone().unwrap();
        assert!(problem.starts_with("version 2 is not valid: line 1, routes"), "{problem}");
        let again = judge.take(&broken);
        assert_eq!(outcome(&again), (1, "a".to_owned(), vec![]));
        assert!(Arc::ptr_eq(&again.loaded, &verdict.loaded) && !again.is_new);
        let verdict = judge.take(&held(version(3, &policy("b")), None));
        assert_eq!(outcome(&verdict), (3, "b".to_owned(), vec![]));
        assert_eq!(verdict.loaded.problem, None);
        // Another text that says the same is another version of the same policy.
        let same = judge.take(&held(version(4, &format!("# b\n{}", policy("b"))), None));
        assert_eq!(outcome(&same), (4, "b".to_owned(), vec![]));
        assert!(same.is_new && Arc::ptr_eq(&same.loaded.policy, &verdict.loaded.policy));
    }

    #[test]
    fn what_the_store_says_of_itself_is_told_and_changes_nothing() {
        let mut judge = Judge::default();
        let good = held(version(1, &policy("a")), None);
        judge.take(&good);
        let mut lost = good.clone();
        let trouble = Some(Trouble::Lost("Consul cannot be reached".to_owned()));
        (lost.policy.trouble, lost.overlay.trouble) = (trouble.clone(), trouble);
        let verdict = judge.take(&lost);
        assert_eq!(verdict.loaded.problem.as_deref(), Some("Consul cannot be reached"), "said once");
        assert_eq!((outcome(&verdict), verdict.is_new), ((1, "a".to_owned(), vec![]), false));
        let text = "realmgate/policy: it is empty".to_owned();
        lost.policy.trouble = Some(Trouble::Refused { reason: "empty", text });
        assert_eq!(outcome(&judge.take(&lost)), (1, "a".to_owned(), vec![("policy", "empty")]));
        assert_eq!(judge.take(&good).loaded.problem, None);
    }

    #[test]
    fn an_overlay_changes_what_serves_and_not_what_is_written() {
        let mut judge = Judge::default();
        let more = "services: {more: {endpoints: ['10.0.0.9:1']}}";
        let verdict = judge.take(&held(version(1, &policy("a")), Some(more)));
        assert_eq!(outcome(&verdict), (1, "a more".to_owned(), vec![]));
        assert_eq!(verdict.loaded.written.services.len(), 1);
        // A broken one: the last good one stays, and the policy goes on.
        let verdict = judge.take(&held(version(2, &policy("b")), Some("services: 5")));
        assert_eq!(outcome(&verdict), (2, "b more".to_owned(), vec![("overlay", "invalid")]));
        // One that goes.
        let verdict = judge.take(&held(version(2, &policy("b")), None));
        assert_eq!(outcome(&verdict), (2, "b".to_owned(), vec![]));
        assert!(verdict.is_new);
        // One that does not fit: what served serves, whatever else changes.
        let unfit = Some("routes: {r: {server_type: 1, to: [{service: b}]}}");
        let verdict = judge.take(&held(version(3, &policy("c")), unfit));
        assert_eq!(outcome(&verdict), (2, "b".to_owned(), vec![("overlay", "invalid")]));
        let problem = verdict.loaded.problem.clone().unwrap();
        assert!(
            problem.contains("p/overlay/aws makes version 3 of the policy invalid: routes.r.to[0]"),
            "{problem}"
        );
        let verdict = judge.take(&held(version(4, &policy("b")), unfit));
        assert_eq!(outcome(&verdict), (4, "b".to_owned(), vec![]));
        let problems = judge.check(&policy("c")).unwrap_err();
        assert!(problems[0].message.ends_with("(with the overlay p/overlay/aws)"), "{problems:?}");
    }

    #[test]
    fn a_document_written_by_hand_waits_to_become_a_version() {
        let mut judge = Judge::default();
        judge.take(&held(version(1, &policy("a")), None));
        let by_hand = held(Written::ByHand(policy("b").into()), None);
        let verdict = judge.take(&by_hand);
        assert_eq!(outcome(&verdict), (1, "a".to_owned(), vec![]));
        let document = verdict.by_hand.unwrap();
        assert_eq!(document.etag(), etag(policy("b")));
        judge.hold_back(document, "no rights".to_owned());
        let verdict = judge.take(&by_hand);
        assert_eq!(verdict.loaded.problem.as_deref(), Some("no rights"));
        assert!(verdict.by_hand.is_some(), "tried again");
        let verdict = judge.take(&held(Written::ByHand("routes: 5".into()), None));
        assert_eq!((outcome(&verdict).2, verdict.by_hand), (vec![("policy", "invalid")], None));
        assert!(!verdict.loaded.problem.clone().unwrap().contains("no rights"), "of another document");
        assert_eq!(judge.take(&held(version(2, &policy("b")), None)).loaded.problem, None);
    }
}
