package handlers

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/finding"
	"github.com/cmkeeper/cmkeeper/handlers/ledger"
	"github.com/cmkeeper/cmkeeper/handlers/reaction"
	"github.com/cmkeeper/cmkeeper/internal/command"
	"github.com/cmkeeper/cmkeeper/reencrypt"
)

// JobAlerts alerts how re-encryption jobs end, or that they do not. It is a
// reencrypt.Observer, and needs no Router: it works where only jobs are handled.
type JobAlerts struct {
	Alerts          alert.Sink
	Account, Region string
	// StateBucket is named in the commands to move by hand; "" names none.
	StateBucket string
}

// Warned alerts what the preflight of a job warns of, once per job.
func (j JobAlerts) Warned(ctx context.Context, s reencrypt.Summary) error {
	a := j.alert(s, "preflight")
	a.Time, a.Severity = s.Started, finding.Medium
	a.Title = fmt.Sprintf("Re-encryption of s3://%s/%s started with warnings", s.Bucket, s.Prefix)
	a.Summary = "The preflight check found problems that need attention. The job continues."
	a.Action.Status, a.Action.Description = alert.StatusNone, "The job had not moved anything when it found this."
	a.Risk = "The data described below may stay under an old key, or be written under it again, and is lost if that key is deleted."
	for _, f := range s.Preflight {
		if f.Severity == reencrypt.SeverityWarn && f.Fix != "" {
			a.Next = append(a.Next, f.Fix)
		}
	}
	return j.publish(ctx, a)
}

// Completed alerts what a job moved and what it did not, once per job.
func (j JobAlerts) Completed(ctx context.Context, s reencrypt.Summary) error {
	a := j.alert(s, "complete")
	a.Time = s.Finished
	left := s.Refused + s.Failed
	a.Title = fmt.Sprintf("Re-encryption of s3://%s/%s is complete", s.Bucket, s.Prefix)
	a.Summary = fmt.Sprintf("A verifying pass found every object version in scope either under the new key or listed below with a reason: %d scanned, %d moved, %d refused, %d failed, in %s.",
		s.Scanned, s.Moved, s.Refused, s.Failed, s.Finished.Sub(s.Started).Round(time.Second))
	a.Action.Description = fmt.Sprintf("Moved to the new key: %s, %d bytes.", objectVersions(s.Moved), s.Bytes)
	a.Severity = finding.Info
	if left > 0 {
		a.Severity = finding.Medium
		a.Title += ", except for " + objectVersions(left)
		a.Risk = "These object versions, or data keys in them, are still under an old key and are lost if it is deleted."
		a.Next = []string{
			"Keep the old keys until every entry of the report is resolved: " + s.Report,
			"See docs/reencryption.md for what to do about each reason. Then retry only these:",
			command.Line("cmkeeper reencrypt retry %s", command.Job(s.Job)),
		}
	} else {
		a.Next = []string{nothingLeft(s.EnvelopesIn) + " Check other uses (EBS, databases, secrets) before you disable them, and disable them long before you delete them."}
	}
	return j.publish(ctx, a)
}

// nothingLeft says what of a scope does not need the old keys any more, as far as data keys
// were looked for.
func nothingLeft(in reencrypt.Envelopes) string {
	const own = "S3's own encryption of this scope does not need the old keys any more. "
	switch in {
	case reencrypt.EnvelopesContent:
		return "Nothing in this scope needs the old keys any more, unless it has client-side encryption of a format that cmkeeper does not know."
	case reencrypt.EnvelopesMetadata:
		return own + "Data keys in the contents of objects may: only metadata and instruction files were looked at."
	case reencrypt.EnvelopesOff:
	}
	return own + "Client-side encryption may: it was not looked for (a plan with --envelopes content does)."
}

// Stalled alerts that a job made no progress for 30 minutes, once per hour while that
// lasts, or that it stopped, and again while that lasts.
func (j JobAlerts) Stalled(ctx context.Context, s reencrypt.Summary) error {
	at := ledger.Now()
	a := j.alert(s, "stalled/"+at.Truncate(time.Hour).Format("20060102T15Z"))
	a.Time, a.Severity = at, finding.High
	verb := "makes no progress"
	if s.State == reencrypt.StateStopped {
		verb = "stopped"
		a.ID, a.Ongoing = fmt.Sprintf("job/%s/stopped/%d", s.Job, s.Finished.Unix()), true
	}
	a.Title = fmt.Sprintf("Re-encryption of s3://%s/%s %s", s.Bucket, s.Prefix, verb)
	a.Summary = fmt.Sprintf("So far: %s scanned, %d moved.", objectVersions(s.Scanned), s.Moved)
	if s.Cause != "" {
		a.Summary += " Cause: " + s.Cause + "."
	}
	a.Action.Status = alert.StatusFailed
	a.Action.Description = "The job is not complete. Objects that were moved stay under the new key."
	a.Risk = "The remaining objects are still under an old key and are lost if it is deleted."
	a.Next = []string{
		"Fix the cause. Check the jobs queue, its dead-letter queue and the workers' logs.",
		"Then resume the job:",
		command.Line("cmkeeper reencrypt resume %s", command.Job(s.Job)),
		"Or move the rest by hand:",
	}
	a.Next = append(a.Next, reaction.ReencryptCommands(s.From, s.To, []reencrypt.Scope{{Bucket: s.Bucket, Prefix: s.Prefix}}, j.StateBucket, s.EnvelopeFlags())...)
	return j.publish(ctx, a)
}

func objectVersions(n int64) string {
	if n == 1 {
		return "1 object version"
	}
	return fmt.Sprintf("%d object versions", n)
}

func (j JobAlerts) alert(s reencrypt.Summary, what string) alert.Alert {
	a := alert.Alert{
		ID: "job/" + s.Job + "/" + what, Kind: alert.KindReencryption, EventName: "Reencryption",
		Account: j.Account, Region: j.Region,
		Key:    &alert.Key{ARN: s.To},
		Action: alert.Action{Mode: string(reaction.Enforce), Status: alert.StatusDone},
	}
	if _, name, ok := strings.Cut(s.Alias, ":alias/"); ok {
		a.Key.Aliases = []string{"alias/" + name}
	}
	add := func(name string, values ...string) {
		if len(values) > 0 {
			a.Facts = append(a.Facts, alert.Fact{Name: name, Values: values})
		}
	}
	add("job", s.Job)
	add("bucket", s.Bucket)
	if s.Prefix != "" {
		add("prefix", s.Prefix)
	}
	add("from", s.From...)
	add("to", s.To)
	var reasons []string
	for _, reason := range slices.Sorted(maps.Keys(s.ByReason)) {
		reasons = append(reasons, fmt.Sprintf("%s: %d", reason, s.ByReason[reason]))
	}
	add("not moved, by reason", reasons...)
	add("client-side encryption", s.ClientSide(false)...)
	var rows []string
	for _, row := range s.Sample {
		text := string(row.Reason) + " " + row.Key
		if row.Version != "" {
			text += " version " + row.Version
		}
		if row.Detail != "" {
			text += " (" + row.Detail + ")"
		}
		rows = append(rows, text)
	}
	add("first of what did not move", rows...)
	var batch []string
	for _, b := range s.Batch {
		text := b.String()
		if b.Rows != "" {
			text += ", see " + b.Rows
		}
		batch = append(batch, text)
	}
	add("jobs of S3 Batch Operations", batch...)
	add("notes", s.Notes...)
	var found []string
	for _, f := range s.Preflight {
		found = append(found, fmt.Sprintf("%s (%s): %s", f.Name, f.Severity, f.What))
	}
	add("found before the first write", found...)
	if s.Report != "" {
		add("report", s.Report)
	}
	return a
}

func (j JobAlerts) publish(ctx context.Context, a alert.Alert) error {
	if err := j.Alerts.Publish(ctx, a); err != nil {
		return fmt.Errorf("publish alert: %w", err)
	}
	return nil
}
