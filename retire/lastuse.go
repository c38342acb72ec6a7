package retire

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/internal/command"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/reencrypt"
)

// Trail is CloudTrail: Call calls an operation of its API. *awsclient.JSON is one.
type Trail interface {
	Call(ctx context.Context, operation string, in, out any) error
}

// Jobs lists the jobs of the fleet; *reencrypt.Engine does.
type Jobs interface {
	Jobs(ctx context.Context, ended bool) ([]reencrypt.Summary, error)
}

// user is what is known of who made the last use of a key.
type user struct {
	// record is the caller as CloudTrail's record of the use names it. Without a record,
	// why says why there is none.
	record, why string
	// name is "role/NAME" or "user/NAME" of that caller, "" for one of another account.
	name string
	// jobs are those of the fleet that worked with the key at that time, as far as they
	// could be read; jobsUnread says why not all could.
	jobs       []reencrypt.Summary
	jobsUnread string
}

// clocks is more than the clocks of KMS and of the fleet's workers differ by.
const clocks = time.Minute

// lastUser finds out who made the last use of a key. What cannot be found out is in the answer.
func (c Checker) lastUser(ctx context.Context, key inventory.Key, usage inventory.Usage) (user, error) {
	var u user
	if c.Jobs != nil {
		jobs, err := c.Jobs.Jobs(ctx, true)
		if err != nil {
			u.jobsUnread = err.Error()
		}
		u.jobs = workingWith(jobs, key.ARN, usage.At, time.Now())
	}
	switch {
	case c.Trail == nil:
		u.why = "CloudTrail is not asked here"
		return u, nil
	case usage.EventID == "":
		u.why = "KMS does not name the event"
		return u, nil
	}
	var page struct {
		Events []struct{ CloudTrailEvent string }
	}
	type attribute struct{ AttributeKey, AttributeValue string }
	err := c.Trail.Call(ctx, "LookupEvents", struct{ LookupAttributes []attribute }{[]attribute{{"EventId", usage.EventID}}}, &page)
	if ctx.Err() != nil {
		return u, context.Cause(ctx)
	}
	if err != nil {
		u.why = fmt.Sprintf("CloudTrail cannot be asked (%v); that takes cloudtrail:LookupEvents", err)
		return u, nil
	}
	u.why = "CloudTrail does not show the event; it shows one some minutes after the use, for 90 days"
	for _, found := range page.Events {
		e, err := events.Parse([]byte(found.CloudTrailEvent))
		if err != nil || e.RecordID != usage.EventID {
			continue
		}
		u.record, u.why = cmp.Or(e.Actor.String(), "a caller without a name"), ""
		if e.Actor.AccountID == key.Account {
			u.name = callerName(e.Actor)
		}
	}
	return u, nil
}

// callerName is the role behind a session, or the user.
func callerName(a events.Actor) string {
	switch {
	case a.RoleARN != "":
		return "role/" + arn.Parse(a.RoleARN).Name()
	case a.Type == "IAMUser":
		return "user/" + a.Name
	}
	return ""
}

// workingWith returns the jobs that ran at a time and move objects from the key or to it.
func workingWith(jobs []reencrypt.Summary, key string, at, now time.Time) []reencrypt.Summary {
	return slices.DeleteFunc(slices.Clone(jobs), func(j reencrypt.Summary) bool {
		end := j.Finished
		if end.IsZero() {
			end = now
		}
		return j.To != key && !slices.Contains(j.From, key) || at.Before(j.Started.Add(-clocks)) || at.After(end.Add(clocks))
	})
}

// ownJob returns the job in whose work the use was made: CloudTrail's record names the
// role that the job worked as, when it worked with the key.
func (u user) ownJob() (job reencrypt.Summary, proved bool) {
	i := slices.IndexFunc(u.jobs, func(j reencrypt.Summary) bool { return u.name != "" && slices.Contains(j.By, u.name) })
	if i < 0 {
		return reencrypt.Summary{}, false
	}
	return u.jobs[i], true
}

// judgeUsage judges the last use. KMS shows no other: where that was surely the fleet's own,
// it hides when others used the key, so that is unknown, and never nothing.
func judgeUsage(f facts, quiet time.Duration, now time.Time, r *Result, tie, maybe func(id, what, fix string)) {
	if f.usage == nil { // it is among the unknowns
		return
	}
	r.LastUse = f.usage.String()
	if quiet == 0 || now.Sub(f.usage.At) >= quiet { // 0: also by a clock that is behind KMS's
		return
	}
	days := int(quiet / (24 * time.Hour))
	what := fmt.Sprintf("The key was last used by %s, less than %d days ago.", r.LastUse, days)
	others := command.Line("aws cloudtrail lookup-events --lookup-attributes %s", command.Lookup("ResourceName", command.Key(f.key.ARN)))
	if job, proved := f.user.ownJob(); proved {
		maybe("last-use", fmt.Sprintf("%s That was cmkeeper itself: CloudTrail's record names %s, when job %s moved objects between this key and another. KMS shows only the last use, so it is not known when others used the key.", what, f.user.record, job.Job),
			fmt.Sprintf("Wait %d days. Or look for other callers in CloudTrail, and accept last-use where there are none: %s", days, others))
		return
	}
	if f.user.record != "" {
		what += " CloudTrail's record of it names " + f.user.record + "."
	} else if f.user.why != "" {
		what += " Who that was is not known: " + f.user.why + "."
	}
	if len(f.user.jobs) > 0 && f.user.record == "" {
		what += fmt.Sprintf(" Job %s moved objects between this key and another at that time, so it was probably cmkeeper, which is no proof.", f.user.jobs[0].Job)
	}
	if len(f.user.jobs) == 0 && f.user.jobsUnread != "" {
		what += " Whether a job of cmkeeper ran at that time is not known: " + f.user.jobsUnread + "."
	}
	tie("last-use", what, "Find the callers in CloudTrail, and wait: "+others)
}
