package handlers

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/judgement"
)

// marksTimeout bounds how long an alert waits for what it is judged by.
const marksTimeout = 2 * time.Second

// judged returns an alert with the severity that it has in its context, and with
// the reasons as a fact. An occurrence that is exempt, and about which nothing was
// done, becomes a note. What cannot be read makes nothing quieter and keeps no
// alert waiting.
func (r *Router) judged(ctx context.Context, a alert.Alert) alert.Alert {
	if a.Kind == alert.KindGuard || a.Severity == alert.Info {
		return a
	}
	m, by := r.markedFor(ctx, a), r.judgedActor(a.Actor)
	if cmp.Or(a.Action.Status, alert.StatusNone) == alert.StatusNone {
		if x, ok := r.config.Exemptions.Find(string(a.Kind), m.lasted, by, now()); ok {
			tellExempt(&a, x, Mode(a.Action.Mode))
			return a
		}
	}
	v := r.config.Rules.Judge(judgement.Occurrence{
		Severity: a.Severity, Fixed: fixed(a),
		Live: m.live, Noted: m.noted, Lasting: m.lasted, Actor: by, At: a.Time,
	})
	a.Severity = v.Severity
	if len(v.Reasons) > 0 {
		a.Facts = append(slices.Clone(a.Facts), alert.Fact{Name: "why this severity", Values: v.Reasons})
	}
	return a
}

// fixed says why nothing lowers an alert's severity, or "".
func fixed(a alert.Alert) string {
	switch a.Action.Status {
	case alert.StatusFailed:
		return "an action that failed"
	case alert.StatusRefused:
		return "what was left undone"
	case alert.StatusDone, alert.StatusNone, alert.StatusWouldDo:
	}
	if i := slices.IndexFunc(a.Findings, finding.Finding.Fixed); i >= 0 {
		return "the finding " + a.Findings[i].ID.String()
	}
	return ""
}

// markedFor reads what an alert's key is picked by, if any rule asks for that.
func (r *Router) markedFor(ctx context.Context, a alert.Alert) marks {
	var m marks
	if a.Key == nil || !r.config.Rules.ByKey() && !r.config.Exemptions.Any(string(a.Kind)) {
		return m
	}
	ctx, cancel := context.WithTimeout(ctx, marksTimeout)
	defer cancel()
	doc, err := r.knownKey(ctx, a.Key.ARN)
	if err == nil {
		m, err = r.marks(ctx, a.Key.ARN, doc, a.Time)
	}
	if err != nil {
		r.log.WarnContext(ctx, "an alert is judged without what its key is picked by", "key", a.Key.ARN, "error", err)
		m = marks{}
	}
	m.live.Aliases = append(m.live.Aliases, a.Key.Aliases...)
	return m
}

// judgedActor is an alert's actor as rules look at it.
func (r *Router) judgedActor(a *alert.Actor) judgement.Actor {
	if a == nil {
		return judgement.Actor{}
	}
	by := r.actor(cmp.Or(a.Role, a.ARN), a.Account)
	by.Root = a.Type == "Root"
	by.Service = a.Type == "AWSService" || a.Type == ""
	by.NoMFA = a.MFA == "false"
	return by
}
