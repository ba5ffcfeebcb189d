//! Answers that are written at once.

use super::answers::{Answer, Refusal, ResponseMode};
use super::connection::Connection;
use super::results::SendResult;
use super::routes::Reply;
use super::shared::Shared;
use crate::clock::Millis;

impl Shared {
    /// Answers a send.
    pub(super) fn answer_send(
        &mut self,
        now: Millis,
        connection: &mut Connection,
        result: SendResult,
        mode: ResponseMode,
    ) {
        self.stats.send(result);
        match result {
            SendResult::Ok if mode.keep_alive => self.answer_delivered(now, connection),
            SendResult::Invalid(error) => {
                self.hints.invalid_send(error);
                self.answer(now, connection, &Answer::send(result), mode);
            }
            SendResult::Ok
            | SendResult::Buffered
            | SendResult::NotFound
            | SendResult::Failed
            | SendResult::Published(_)
            | SendResult::Ended
            | SendResult::Unavailable
            | SendResult::Lost
            | SendResult::OutOfMemory
            | SendResult::NoAnswer
            | SendResult::Asked(_) => {
                self.answer(now, connection, &Answer::send(result), mode);
            }
        }
    }

    /// Answers a request whose answer only depends on the gateway's state.
    pub(super) fn reply(&mut self, now: Millis, connection: &mut Connection, reply: &Reply, mode: ResponseMode) {
        let detail;
        let answer = match reply {
            Reply::Healthz => Answer::healthy(),
            Reply::Dashboard => Answer::dashboard(),
            Reply::Readyz => {
                let redis = self.engine.link.as_ref().map(|link| (link.is_live(), link.has_been_live()));
                Answer::readiness(self.settings.callback_configured, self.shutdown.has_begun(), redis)
            }
            Reply::Options(allow, cors) => Answer::options(allow, cors),
            Reply::Preflight(cors, headers) => Answer::preflight(cors, headers, self.settings.post_streams),
            Reply::Refused(refusal, cors) => {
                self.stats.refuse(*refusal);
                Answer::refusal(*refusal, cors)
            }
            Reply::MethodNotAllowed(allow, cors) => {
                self.stats.refuse(Refusal::Method);
                Answer::method_not_allowed(allow, cors)
            }
            Reply::BadParameter(what) => {
                self.stats.refuse(Refusal::Parameter);
                detail = what;
                Answer::detailed_refusal(Refusal::Parameter, detail)
            }
            Reply::Cursor => {
                let groups = &self.hub.groups;
                Answer::cursor(groups.has_history().then(|| self.engine.cursor(groups.head())))
            }
            Reply::Group(name) => {
                let standing = self.hub.groups.standing(name);
                let kept = standing.and_then(|standing| standing.newest_kept);
                let cursor = kept.map(|position| self.engine.cursor(position));
                let members = standing.map_or(0, |standing| standing.members);
                Answer::group(name, members, cursor, standing.is_some_and(|standing| standing.is_ended), true)
            }
            Reply::Metrics | Reply::Connections(_) => return,
        };
        self.answer(now, connection, &answer, mode);
    }
}
