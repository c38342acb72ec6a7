// Package demo plays what cmkeeper is for: somebody switches rotation off, opens a
// key policy to everyone and schedules a deletion, and an operator moves an alias to
// a new key. A worker reacts to the events, and moves the data: what S3 encrypts, and the
// data keys of what an application has encrypted itself. Then the operator reviews who may
// use the key with cmkeeper access, replaces a key with cmkeeper rotate, twice, and undoes
// the second. The package's own verifier compares the result with live state.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/cmkeeper/cmkeeper/internal/sandbox"
)

// Options of a run.
type Options struct {
	// Worker runs a fleet member with the environment's variables and the SDK
	// configuration until ctx is done, and calls ready once it has looked at the account.
	Worker func(ctx context.Context, environment map[string]string, cfg aws.Config, ready func()) error
	// Command runs a command line of cmkeeper for a person, with the environment's
	// variables and the SDK configuration.
	Command func(ctx context.Context, environment map[string]string, cfg aws.Config, stdout, stderr io.Writer, args ...string) error
	// Out gets the progress, line by line. Nil discards it.
	Out io.Writer
	// Patience is how long to wait for all reactions; zero means 60 seconds.
	Patience time.Duration

	// Objects is the number of objects for each prefix; zero is the full demo, with
	// more than 2,000 versions in all.
	Objects int
	// BeforeEvents and BeforeVerify change the account before the first call, and
	// after the worker has stopped but before the check. The verifier's tests use them
	// to cause what it must find. Nil does nothing.
	BeforeEvents, BeforeVerify func(context.Context, *sandbox.Sandbox) error
}

// Summary is the result of a run.
type Summary struct {
	Rotation struct {
		Reenabled  bool `json:"reenabled"`
		PeriodDays int  `json:"period_days"`
	} `json:"rotation"`
	Policy struct {
		Restored bool `json:"restored"`
	} `json:"policy"`
	Alerts struct {
		Total  int            `json:"total"`
		ByKind map[string]int `json:"by_kind"`
	} `json:"alerts"`
	Reencryption struct {
		Scanned int `json:"scanned"`
		Moved   int `json:"moved"`
		Skipped int `json:"skipped"`
		Refused int `json:"refused"`
		Failed  int `json:"failed"`
	} `json:"reencryption"`
	// Envelopes are the objects that the application encrypted itself, with data keys under
	// the old key.
	Envelopes struct {
		Objects int `json:"objects"`
		// Rewrapped have another wrapping of their data key, Opened give what was encrypted
		// with the new key alone. Left are the versions whose data key has to stay under
		// the old key; the report names them.
		Rewrapped int      `json:"rewrapped"`
		Opened    int      `json:"opened"`
		Left      []string `json:"left"`
	} `json:"envelopes"`
	// Replacement is the key that cmkeeper rotate has replaced, Abort the rotation that was
	// undone.
	Replacement struct {
		// NewKeys are the keys with the rotation's tag; Moved are the object versions under
		// the new one, Left what is named as still needing the old one, which is Enabled.
		NewKeys    int      `json:"new_keys"`
		Moved      int      `json:"moved"`
		Left       []string `json:"left"`
		OldEnabled bool     `json:"old_key_enabled"`
	} `json:"replacement"`
	Abort struct {
		// Moved are the object versions that were under the third key, Restored those that
		// are under the second again.
		Moved    int `json:"moved"`
		Restored int `json:"restored"`
		// Waits is why the third key is still enabled.
		Waits string `json:"waits"`
	} `json:"abort"`
	// Usage is what cmkeeper usage says about the key whose policy was opened.
	Usage struct {
		Calls     int `json:"calls"`
		OfMallory int `json:"of_mallory"`
	} `json:"usage"`
	// Access is whether cmkeeper access was right: who opened the policy can give herself the
	// key again.
	Access struct {
		SelfGrant bool `json:"self_grant"`
	} `json:"access"`
	Seconds float64 `json:"seconds"`
	// Problems says what is wrong; empty if OK.
	Problems []string `json:"problems,omitempty"`
	OK       bool     `json:"ok"`
}

// mallory is the access key of the IAM user who breaks things.
const mallory = "mallory"

// Run runs the demo. The error says why it could not run to its end; if it ran and
// a check failed, the Summary is not OK.
func Run(ctx context.Context, o Options) (Summary, error) {
	began := time.Now()
	if o.Out == nil {
		o.Out = io.Discard
	}
	if o.Patience == 0 {
		o.Patience = time.Minute
	}
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(o.Out, format+"\n", args...) }

	say("An AWS in this process, a worker that enforces, and somebody who breaks things.\n")
	box, err := sandbox.Start(ctx, "127.0.0.1:0")
	if err != nil {
		return Summary{}, err
	}
	defer box.Close()
	st, err := setStage(ctx, box, o.Objects)
	if err != nil {
		return Summary{}, fmt.Errorf("set the stage: %w", err)
	}
	before, err := st.snapshot(ctx, st.buckets)
	if err != nil {
		return Summary{}, fmt.Errorf("record the objects before: %w", err)
	}
	say("  set up      %d object versions in %d buckets, %d of them under %s  (%.1f s)", len(before), len(st.buckets), countKey(before, st.oldKey), dataAlias, time.Since(began).Seconds())

	workerCtx, stopWorker := context.WithCancel(ctx)
	defer stopWorker()
	stopped, ready := make(chan error, 1), make(chan struct{})
	environment := box.WorkerEnvironment("alias/demo-*")
	environment["CMKEEPER_REENCRYPT_ENVELOPES"] = "content"
	environment["CMKEEPER_REENCRYPT_REWRITE_FILES"] = "true"
	go func() {
		stopped <- o.Worker(workerCtx, environment, box.Config(sandbox.WorkerKey), func() { close(ready) })
	}()
	if o.BeforeEvents != nil {
		if err := o.BeforeEvents(ctx, box); err != nil {
			return Summary{}, err
		}
	}
	select {
	case <-ready:
	case err := <-stopped:
		return Summary{}, fmt.Errorf("start the worker: %w", err)
	}
	if err := st.awaitIdle(ctx, o.Patience); err != nil {
		return Summary{}, err
	}
	acted := time.Now()
	if err := st.breakThings(ctx, say); err != nil {
		return Summary{}, fmt.Errorf("act as %s: %w", mallory, err)
	}
	received, err := st.awaitAlerts(ctx, stopped, o.Patience, say)
	if err != nil {
		return Summary{}, err
	}
	say("  worker      done %.1f s after the last of these calls\n", time.Since(acted).Seconds())
	access, err := st.reviewAccess(ctx, o, say)
	if err != nil {
		return Summary{}, fmt.Errorf("review who may use the key of %s: %w", policyAlias, err)
	}
	say("")
	second, err := st.replaceKey(ctx, o, say)
	if err != nil {
		return Summary{}, fmt.Errorf("replace the key of %s: %w", ledgerAlias, err)
	}
	stopWorker()
	if err := <-stopped; err != nil && !errors.Is(err, context.Canceled) {
		return Summary{}, fmt.Errorf("stop the worker: %w", err)
	}
	if o.BeforeVerify != nil {
		if err := o.BeforeVerify(ctx, box); err != nil {
			return Summary{}, err
		}
	}

	v := verifier{stage: st, before: before, alerts: received, second: second, review: access, command: func(ctx context.Context, args ...string) (string, error) {
		return st.command(ctx, o, io.Discard, args...)
	}}
	summary, err := v.verify(ctx)
	if err != nil {
		return summary, fmt.Errorf("verify: %w", err)
	}
	summary.Seconds = float64(time.Since(began).Milliseconds()) / 1000
	say("\nChecked against live state:\n")
	say("%s", summary.text())
	return summary, nil
}

// text renders the summary for people.
func (s Summary) text() string {
	var b strings.Builder
	mark := func(ok bool, format string, args ...any) {
		sign := "ok  "
		if !ok {
			sign = "FAIL"
		}
		fmt.Fprintf(&b, "  %s  %s\n", sign, fmt.Sprintf(format, args...))
	}
	r := s.Reencryption
	mark(s.Rotation.Reenabled, "rotation is on, every %d days", s.Rotation.PeriodDays)
	mark(s.Policy.Restored, "the key policy is what it was")
	mark(s.Alerts.Total > 0, "%d alerts arrived: %s", s.Alerts.Total, countsText(s.Alerts.ByKind))
	mark(r.Failed == 0, "%d object versions: %d moved to the new key, %d under other keys untouched, %d refused and reported, %d wrong", r.Scanned, r.Moved, r.Skipped, r.Refused, r.Failed)
	e := s.Envelopes
	mark(e.Objects > 0 && e.Rewrapped == e.Objects && e.Opened == e.Objects, "%d objects that the application encrypted itself: %d data keys moved,\n        %d open with the new key alone; reported as left: %d older version", e.Objects, e.Rewrapped, e.Opened, len(e.Left))
	mark(s.Replacement.NewKeys == 1 && s.Replacement.OldEnabled, "one new key for %s, like the old one, which is enabled: %d object versions moved; named as left: %s", ledgerAlias, s.Replacement.Moved, strings.Join(s.Replacement.Left, ", "))
	mark(s.Abort.Restored == s.Replacement.Moved, "after the abort the alias, the bucket defaults and %d object versions are back; the third key stays enabled for a day without use", s.Abort.Restored)
	mark(s.Usage.OfMallory > 0, "cmkeeper usage %s shows %s: %d of %d calls", policyAlias, mallory, s.Usage.OfMallory, s.Usage.Calls)
	mark(s.Access.SelfGrant, "%s cannot decrypt under %s, but can give herself that, as access says", mallory, policyAlias)
	for _, p := range s.Problems {
		mark(false, "%s", p)
	}
	verdict := "Everything is as it should be"
	if !s.OK {
		verdict = "Something is wrong"
	}
	fmt.Fprintf(&b, "\n%s (%.1f s).", verdict, s.Seconds)
	return b.String()
}

// breakThings makes the four calls that the worker exists for.
func (st *stage) breakThings(ctx context.Context, say func(string, ...any)) error {
	client := kms.NewFromConfig(st.box.Config(mallory))
	if _, err := client.DisableKeyRotation(ctx, &kms.DisableKeyRotationInput{KeyId: &st.rotatingKey}); err != nil {
		return err
	}
	say("  %s     DisableKeyRotation   %s, which rotated every %d days", mallory, rotatingAlias, rotationPeriod)
	public := strings.Replace(st.policy, `"Statement":[`, `"Statement":[{"Sid":"Oops","Effect":"Allow","Principal":"*","Action":"kms:Decrypt","Resource":"*"},`, 1)
	if _, err := client.PutKeyPolicy(ctx, &kms.PutKeyPolicyInput{KeyId: &st.policyKey, Policy: &public, PolicyName: aws.String("default")}); err != nil {
		return err
	}
	say("  %s     PutKeyPolicy         anybody may now decrypt under %s", mallory, policyAlias)
	if _, err := client.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: &st.doomedKey, PendingWindowInDays: aws.Int32(7)}); err != nil {
		return err
	}
	say("  %s     ScheduleKeyDeletion  %s, in 7 days", mallory, doomedAlias)
	if _, err := kms.NewFromConfig(st.box.Config(operator)).UpdateAlias(ctx, &kms.UpdateAliasInput{AliasName: aws.String(dataAlias), TargetKeyId: &st.newKey}); err != nil {
		return err
	}
	say("  %s    UpdateAlias          %s, to a new key\n", operator, dataAlias)
	return nil
}
