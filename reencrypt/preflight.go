package reencrypt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/cmkeeper/cmkeeper/internal/arn"
	"github.com/cmkeeper/cmkeeper/internal/command"
	"github.com/cmkeeper/cmkeeper/state"
)

// Severity is how much a finding of a preflight matters.
type Severity string

// The severities.
const (
	// SeverityStop: nothing can be moved, or not as asked; a job stops.
	SeverityStop Severity = "stop"
	// SeverityWarn: a person has to know or do something.
	SeverityWarn Severity = "warn"
	// SeverityNote: good to know.
	SeverityNote Severity = "note"
)

// Finding is something that a preflight found. Its texts hold names and policies
// as they are: escape them before they are shown.
type Finding struct {
	// Name is short and documented in docs/reencryption.md.
	Name     string   `json:"name"`
	Severity Severity `json:"severity"`
	What     string   `json:"what"`
	// Fix is what to do about it; "" where there is nothing to do.
	Fix string `json:"fix,omitempty"`
}

// The names of findings.
const (
	findingUnread          = "unread"
	findingTargetKey       = "target-key"
	findingOldKey          = "old-key"
	findingDryRun          = "kms-dry-run"
	findingPolicyKey       = "policy-demands-key"
	findingPolicyCondition = "policy-demands-condition"
	findingObjectLock      = "object-lock-default"
	findingReplication     = "replication"
	findingNotification    = "notifications"
	findingLifecycle       = "lifecycle"
	findingContext         = "encryption-context"
	findingDefault         = "bucket-default"
	findingDefaultMoved    = "bucket-default-moved"
	findingUploads         = "unfinished-uploads"
	findingMethod          = "method"
	findingEnvelopes       = "envelopes"
)

// Preflight finds out what would fail, or surprise, when o is run. It writes and
// removes scratch objects in the state bucket, but for a dry run of what is not Probed,
// and changes nothing else. Its error is one that may go away, or a mistake in o.
func (e *Engine) Preflight(ctx context.Context, o RunOptions) ([]Finding, error) {
	s, err := e.resolveSpec(ctx, o)
	if err != nil {
		return nil, err
	}
	findings, _, err := e.preflight(ctx, s, !o.DryRun || s.Method.Probed())
	return findings, err
}

// preflight reads and judges, with scratch objects or without. What stops the
// bucket is a finding, too.
func (e *Engine) preflight(ctx context.Context, s spec, scratch bool) ([]Finding, settings, error) {
	if e.opt.KMS == nil {
		return nil, settings{}, errors.New("preflight: no KMS client")
	}
	f, err := e.readSettings(ctx, s, scratch)
	if stop, ok := errors.AsType[*stopError](err); ok {
		return []Finding{{findingMethod, SeverityStop, stop.cause, ""}}, f, nil
	}
	if err != nil {
		return nil, f, err
	}
	return judge(f), f, nil
}

// Begin is Preflight for a run that is about to write: where the engine is asked
// to, and nothing stops the run, it moves the bucket's default encryption first.
func (e *Engine) Begin(ctx context.Context, o RunOptions) ([]Finding, error) {
	s, err := e.resolveSpec(ctx, o)
	if err != nil {
		return nil, err
	}
	return e.begins(ctx, s)
}

func (e *Engine) begins(ctx context.Context, s spec) ([]Finding, error) {
	findings, f, err := e.preflight(ctx, s, true)
	if err != nil || Stops(findings) != "" || !e.opt.FixBucketDefault || !f.movesDefault() {
		return findings, err
	}
	i := slices.IndexFunc(findings, func(f Finding) bool { return f.Name == findingDefault })
	if err := e.moveDefault(ctx, &f); err != nil {
		findings[i].What += " It could not be moved: " + words(err) + "."
		findings[i].Fix = "Grant s3:PutEncryptionConfiguration and s3:GetEncryptionConfiguration, or change it by hand."
		return findings, nil
	}
	e.opt.Logger.InfoContext(ctx, "default encryption moved", "bucket", s.Bucket, "from", f.defaultKeyARN, "to", s.To)
	findings[i] = Finding{findingDefaultMoved, SeverityNote, fmt.Sprintf("The bucket's default encryption was moved from %s to %s.", f.defaultKeyARN, s.To), ""}
	return findings, nil
}

// Stops returns what stops a bucket, "" where nothing does.
func Stops(findings []Finding) string {
	var causes []string
	for _, f := range findings {
		if f.Severity == SeverityStop {
			causes = append(causes, strings.TrimSpace(f.What+" "+f.Fix))
		}
	}
	return strings.Join(causes, " ")
}

// check is the preflight of a job: it stops the job or reports the warnings,
// and only then records that the planner may begin. A crash in between repeats it.
func (e *Engine) check(ctx context.Context, j jobDoc, p *planDoc, etag string) (string, error) {
	findings, err := e.begins(ctx, j.spec)
	if err != nil {
		return etag, err
	}
	if cause := Stops(findings); cause != "" {
		return etag, &stopError{cause}
	}
	if slices.ContainsFunc(findings, func(f Finding) bool { return f.Severity == SeverityWarn }) {
		s := j.summary()
		s.Preflight = findings
		if err := e.opt.Observer.Warned(ctx, s); err != nil {
			return etag, fmt.Errorf("report the preflight warnings of job %s: %w", j.ID, err)
		}
	}
	next := *p
	next.Checked, next.Preflight = true, findings
	etag, err = e.opt.Store.Put(ctx, planKey(j.ID, 1), &next, etag)
	switch {
	case errors.Is(err, state.ErrConflict): // another planner was first
		return etag, err
	case err == nil:
		*p = next
	}
	return etag, err
}

// judge says what a preflight found, the worst first.
func judge(f settings) []Finding {
	var all []Finding
	for _, judged := range [][]Finding{
		judgeUnread(f), judgeTarget(f), judgeSources(f), judgePolicy(f), judgeDefault(f), f.method.judge(f), judgeEnvelopes(f),
	} {
		all = append(all, judged...)
	}
	order := []Severity{SeverityStop, SeverityWarn, SeverityNote}
	slices.SortStableFunc(all, func(a, b Finding) int {
		return cmp.Compare(slices.Index(order, a.Severity), slices.Index(order, b.Severity))
	})
	return all
}

func judgeUnread(f settings) []Finding {
	var all []Finding
	for _, u := range f.unread {
		severity := SeverityWarn
		if u.stops {
			severity = SeverityStop
		}
		all = append(all, Finding{findingUnread, severity, fmt.Sprintf("Not checked for bucket %s: %s cannot be read (%s).", f.Bucket, u.what, u.words), "Grant " + u.permission + "."})
	}
	return all
}

func judgeTarget(f settings) []Finding {
	var all []Finding
	add := func(severity Severity, what, fix string) {
		all = append(all, Finding{findingTargetKey, severity, what, fix})
	}
	switch k := f.to; {
	case k.gone:
		add(SeverityStop, "The new key "+k.arn+" does not exist.", "Name another key.")
		return all
	case k.state != "" && k.state != "Enabled" && k.state != "Updating":
		add(SeverityStop, fmt.Sprintf("The new key %s is %s.", k.arn, k.state), restoreFix(k))
	case k.spec != "" && k.spec != "SYMMETRIC_DEFAULT":
		add(SeverityStop, fmt.Sprintf("The new key %s is %s; S3 needs a symmetric one.", k.arn, k.spec), "Name another key.")
	case f.triedError != "":
		add(SeverityStop, fmt.Sprintf("S3 could not write and read a scratch object under the new key %s: %s.", k.arn, f.triedError), "Grant kms:GenerateDataKey and kms:Decrypt on it, in its key policy and to our role, and s3:PutObject, s3:GetObject and s3:DeleteObject on the state bucket.")
	case !f.tried:
		add(SeverityNote, "The new key was not tried with a scratch object.", "")
	}
	if k := f.to; k.manager == "AWS" {
		add(SeverityWarn, "The new key "+k.arn+" is managed by AWS: whether UpdateObjectEncryption takes it is not documented.", "")
	}
	if account := arn.Account(f.To); account != f.account {
		add(SeverityWarn, fmt.Sprintf("The new key belongs to account %s and not to the bucket's: UpdateObjectEncryption needs AWS Support to allow that.", account), "")
	}
	return all
}

// restoreFix says how a key that cannot be used comes back.
func restoreFix(k keyFacts) string {
	id := command.KeyID(arn.KeyID(k.arn))
	enable := command.Line("aws kms enable-key --key-id %s", id)
	switch k.state {
	case "Disabled":
		return "Enable it: " + enable
	case "PendingDeletion", "PendingReplicaDeletion":
		return "Cancel its deletion, and then enable it: " + command.Line("aws kms cancel-key-deletion --key-id %s", id) + " && " + enable
	case "PendingImport":
		return "Import its key material again."
	case "Unavailable":
		return "Connect its key store again."
	}
	return "Wait until it is Enabled."
}

// judgeSources: a key that cannot be used cannot be moved from. Where another one
// of the old keys can, that one is.
func judgeSources(f settings) []Finding {
	var all []Finding
	dead := 0
	for _, k := range f.from {
		switch {
		case k.gone:
			dead++
			all = append(all, Finding{findingOldKey, SeverityWarn, "The old key " + k.arn + " does not exist: what is under it is lost.", ""})
		case k.state != "" && k.state != "Enabled" && k.state != "Updating":
			dead++
			all = append(all, Finding{findingOldKey, SeverityWarn, fmt.Sprintf("The old key %s is %s: nothing can be moved from it.", k.arn, k.state), restoreFix(k)})
		case k.dryRun != "" && !f.to.gone && (f.to.state == "" || f.to.state == "Enabled"):
			// KMS was asked directly: a policy may allow the same through S3 only.
			all = append(all, Finding{findingDryRun, SeverityWarn,
				fmt.Sprintf("A dry run of kms:ReEncrypt from %s to the new key was refused: %s. Where the policies allow it through S3 only (kms:ViaService), that is as it should be.", k.arn, k.dryRun),
				"Else grant kms:ReEncrypt*, kms:Decrypt and kms:GenerateDataKey on both keys."})
		}
	}
	if dead == len(f.from) {
		for i := range all {
			all[i].Severity = SeverityStop
		}
	}
	return all
}

func judgeDefault(f settings) []Finding {
	var all []Finding
	name := f.defaultName()
	if slices.Contains(f.From, f.defaultKeyARN) {
		finding := Finding{findingDefault, SeverityWarn,
			fmt.Sprintf("The bucket's default encryption names the old key (%s): new objects still land on it.", name),
			"Put the new key there: set CMKEEPER_REENCRYPT_FIX_BUCKET_DEFAULT=true, or use aws s3api put-bucket-encryption."}
		switch {
		case strings.Contains(name, "alias/"):
			finding.Fix = "Point that alias to the new key, or name the key there."
		case f.Prefix != "":
			finding.Fix = "Only a part of the bucket moves, so this is not changed by itself: put the new key there if the rest may follow."
		}
		all = append(all, finding)
	}
	if f.uploads > 0 {
		count := fmt.Sprint(f.uploads)
		if f.moreUploads {
			count += " or more"
		}
		all = append(all, Finding{findingUploads, SeverityWarn,
			count + " multipart uploads are unfinished. S3 does not show their keys: those begun under an old key become objects under it when they are completed, and are lost with it.",
			"Complete or abort them before the job ends: " + command.Line("aws s3api list-multipart-uploads --bucket %s", command.Bucket(f.Bucket))})
	}
	// A bucket key changes the context that policies see, from the object's ARN to the bucket's.
	if strings.Contains(f.keyPolicy, "kms:EncryptionContext") {
		which := "the object's ARN where the object has no bucket key, and the bucket's ARN where it has one"
		if f.encryption != nil && aws.ToBool(f.encryption.BucketKeyEnabled) {
			which = "the bucket's ARN for new objects (the bucket has its bucket key on), and the object's ARN for objects without one"
		}
		all = append(all, Finding{findingContext, SeverityNote,
			"The new key's policy has conditions on the encryption context. S3 sends aws:s3:arn: " + which + ". Each object keeps its own bucket key setting.",
			"Allow both forms."})
	}
	return all
}

// judgeReplication says what becomes of replicas; becomes completes it for a method.
func judgeReplication(f settings, becomes string) []Finding {
	if len(f.replication) == 0 {
		return nil
	}
	var to []string
	for _, rule := range f.replication {
		if rule.Destination != nil {
			to = append(to, aws.ToString(rule.Destination.Bucket))
		}
	}
	slices.Sort(to)
	what := "Objects are replicated to " + strings.Join(slices.Compact(to), ", ") + ". " + becomes
	for _, key := range f.replicaKeys {
		if slices.Contains(f.From, key) {
			what += " Replicas are written under the old key " + key + "."
		}
	}
	return []Finding{{findingReplication, SeverityWarn, what, "Move the destination with a job of its own, and change the replica key of the rules."}}
}
