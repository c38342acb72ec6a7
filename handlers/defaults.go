package handlers

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cmkeeper/cmkeeper/alert"
	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/inventory"
)

// defaultReason names a decision about the encryption of new data.
type defaultReason string

const (
	defaultKept    defaultReason = "kept"    // it is as it should be, or as it was
	defaultNew     defaultReason = "new"     // nothing is known to compare it with
	defaultForeign defaultReason = "foreign" // the key belongs to an account that is not trusted
	defaultAstray  defaultReason = "astray"  // it is not under the key of the alias that the bucket is tagged with
	defaultLeft    defaultReason = "left"    // it left the key that it had
	defaultNone    defaultReason = "none"    // it had a key, and has none now
)

type defaultInput struct {
	// key is the live default key and former the one before, as bucketDoc has them;
	// known says that there is one to compare with.
	key, former string
	known       bool
	// required are the keys of the aliases that the bucket is tagged with, and
	// earlier those that they had before: what is under them moves with the alias.
	required, earlier []string
	foreign           bool
}

// decideDefault judges the default encryption of a bucket after it was set.
func decideDefault(in defaultInput) (defaultReason, alert.Severity) {
	switch {
	case in.foreign:
		return defaultForeign, alert.Critical
	case len(in.required) > 0 && !slices.Contains(in.required, in.key) && !slices.Contains(in.earlier, in.key):
		return defaultAstray, alert.High
	case len(in.required) > 0, in.known && in.key == in.former:
		return defaultKept, ""
	case !in.known:
		return defaultNew, ""
	case in.former == "":
		return defaultKept, "" // it has a key of its own now
	case in.key == "":
		return defaultNone, alert.High
	}
	return defaultLeft, alert.Medium
}

// isForeignKey reports whether a key, by ARN, belongs to an account that is not trusted.
func (r *Router) isForeignKey(key string) bool {
	owner, known := principalAccount(key)
	return known && owner != r.config.Identity.Account && !slices.Contains(r.config.TrustedAccounts, owner)
}

// notABucket says why an event is about no bucket that is read here, or "".
func (r *Router) notABucket(e events.Event) string {
	var name string
	switch d := e.Detail.(type) {
	case events.BucketEncryption:
		name = d.Bucket
	case events.BucketPolicy:
		name = d.Bucket
	case events.BucketTags:
		name = d.Bucket
	}
	if name == "" {
		return "it names no bucket"
	}
	return r.elsewhere(e)
}

// bucketDefault tells when a bucket's default encryption leaves the key that it
// should have. It is judged as it is read now.
func (r *Router) bucketDefault(ctx context.Context, e events.Event) error {
	d, _ := e.Detail.(events.BucketEncryption)
	b, err := r.facts.Bucket(ctx, d.Bucket)
	switch {
	case errors.Is(err, inventory.ErrNotFound):
		return nil // deleted since
	case errors.Is(err, inventory.ErrAccessDenied):
		// What was sent is all that there is to judge.
		r.log.WarnContext(ctx, "bucket cannot be read, so its encryption is judged by the event", "event_id", e.ID, "error", err)
		b = inventory.Bucket{Name: d.Bucket, DefaultKey: d.Key}
	case err != nil:
		return err
	}
	aliases, err := r.facts.Aliases(ctx)
	if err != nil {
		return fmt.Errorf("list aliases: %w", err)
	}
	return r.judgeBucket(ctx, e, b, nil, aliases, now())
}

// bucketPolicy tells when a bucket's policy no longer denies uploads for their
// encryption.
func (r *Router) bucketPolicy(ctx context.Context, e events.Event) error {
	d, _ := e.Detail.(events.BucketPolicy)
	b, err := r.facts.Bucket(ctx, d.Bucket)
	if errors.Is(err, inventory.ErrNotFound) || errors.Is(err, inventory.ErrAccessDenied) {
		r.log.InfoContext(ctx, "event ignored", "reason", "its bucket cannot be read", "event_id", e.ID, "error", err)
		return nil
	}
	if err != nil {
		return err
	}
	return r.judgeBucket(ctx, e, b, r.deniesPlain(ctx, b.Name), nil, now())
}

// bucketTags tells when the tag of a bucket changes that says which aliases' moves
// concern it: whoever sets it has data moved, and whoever removes it has it left.
func (r *Router) bucketTags(ctx context.Context, e events.Event) error {
	d, _ := e.Detail.(events.BucketTags)
	at := now()
	b, err := r.facts.Bucket(ctx, d.Bucket)
	if errors.Is(err, inventory.ErrNotFound) || errors.Is(err, inventory.ErrAccessDenied) {
		r.log.InfoContext(ctx, "event ignored", "reason", "its bucket cannot be read", "event_id", e.ID, "error", err)
		return nil
	}
	if err != nil {
		return err
	}
	doc, err := r.knownBucket(ctx, b.Name)
	if err != nil {
		return err
	}
	if slices.Equal(doc.Aliases, b.AliasTags) {
		return nil // other tags are nobody's business here
	}
	a := r.bucketAlert(e, b, alert.Medium)
	a.Kind = alert.KindTag
	a.ID = e.ID + "/" + string(a.Kind)
	a.Title = "Bucket " + b.Name + " goes with other aliases than before"
	a.Risk = "The tag " + inventory.AliasTag + " decides whose moves re-encrypt the bucket's objects, and which key its default has to be."
	a.Next = append(a.Next, "aws s3api get-bucket-tagging --bucket "+shellQuote(b.Name))
	a.Facts = append(a.Facts, alert.Fact{Name: "aliases now", Values: []string{orNothing(b.AliasTags)}}, alert.Fact{Name: "aliases before", Values: []string{orNothing(doc.Aliases)}})
	if err := r.publish(ctx, a); err != nil {
		return err
	}
	return r.noteBucket(ctx, b, nil, at)
}

// sweepBuckets judges the buckets whose settings for new objects are others than
// when they were last read, and notes all of them, so that an event has something
// to be compared with. What may not be read is left out: nothing is known of it,
// and nothing is claimed.
func (r *Router) sweepBuckets(ctx context.Context, start time.Time) error {
	buckets, err := r.facts.Buckets(ctx)
	if err != nil {
		r.log.InfoContext(ctx, "not every bucket can be read, so changes of their encryption may not be recognised", "error", err)
	}
	aliases, err := r.facts.Aliases(ctx)
	if err != nil {
		return fmt.Errorf("list aliases: %w", err)
	}
	return each(ctx, buckets, func(ctx context.Context, b inventory.Bucket) error {
		e := events.Event{
			ID:   fmt.Sprintf("sweep/bucket/%s/%x", b.Name, sha256.Sum256([]byte(defaultKey(b)))),
			Kind: events.Scheduled, Name: sweepEvent, Time: start, Account: r.config.Identity.Account, Region: r.config.Region,
		}
		return r.judgeBucket(ctx, e, b, r.deniesPlain(ctx, b.Name), aliases, start)
	})
}

// judgeBucket tells what is to be told of a bucket that was read at the given
// time, and then notes it: in this order, so that a crash in between loses no
// difference. denies is nil where the policy was not read.
func (r *Router) judgeBucket(ctx context.Context, e events.Event, b inventory.Bucket, denies *bool, aliases []inventory.Alias, at time.Time) error {
	doc, err := r.knownBucket(ctx, b.Name)
	if err != nil {
		return err
	}
	in := defaultInput{key: defaultKey(b), former: doc.Key, known: doc.Seen, foreign: r.isForeignKey(defaultKey(b))}
	if in.required, in.earlier, err = r.required(ctx, b, aliases); err != nil {
		return err
	}
	reason, severity := decideDefault(in)
	r.log.DebugContext(ctx, "default encryption decided", "bucket", b.Name, "event_id", e.ID, "reason", reason)
	_, set := e.Detail.(events.BucketEncryption)
	if severity != "" && (set || isSweep(e) && doc.Seen && doc.Key != in.key) {
		if err := r.publish(ctx, r.defaultAlert(e, b, in, reason, severity)); err != nil {
			return err
		}
	}
	if doc.Denies && denies != nil && !*denies {
		if err := r.publish(ctx, r.openAlert(e, b)); err != nil {
			return err
		}
	}
	return r.noteBucket(ctx, b, denies, at)
}

// required are the keys of the aliases that a bucket is tagged with, and those
// that they are known to have had before.
func (r *Router) required(ctx context.Context, b inventory.Bucket, aliases []inventory.Alias) (keys, earlier []string, err error) {
	for _, name := range b.AliasTags {
		if live, ok := find(aliases, name); ok && live.TargetKeyARN != "" {
			keys = append(keys, live.TargetKeyARN)
		}
		doc, err := r.knownAlias(ctx, name)
		if err != nil {
			return nil, nil, err
		}
		for _, t := range doc.History {
			earlier = append(earlier, t.KeyARN)
		}
	}
	return keys, earlier, nil
}

func (r *Router) defaultAlert(e events.Event, b inventory.Bucket, in defaultInput, reason defaultReason, severity alert.Severity) alert.Alert {
	a := r.bucketAlert(e, b, severity)
	a.Title = "New objects in bucket " + b.Name + " go under another key"
	a.Risk = "What is written from now on is under a key that is not the one agreed on, and is lost with it."
	switch reason {
	case defaultForeign:
		a.Title = "New objects in bucket " + b.Name + " go under a key of another account"
		a.Risk = "The other account can take the key away, and with it everything that is written from now on. This is how data is held to ransom."
	case defaultNone:
		a.Title = "New objects in bucket " + b.Name + " go under no key of yours"
	case defaultAstray, defaultLeft, defaultKept, defaultNew:
	}
	before := "unknown"
	if in.known {
		before = orNone(in.former)
	}
	a.Facts = append(a.Facts, alert.Fact{Name: "default key now", Values: []string{orNone(in.key)}}, alert.Fact{Name: "default key before", Values: []string{before}})
	if len(in.required) > 0 {
		a.Facts = append(a.Facts, alert.Fact{Name: "keys of the aliases that the bucket is tagged with", Values: in.required})
	}
	key := cmp.Or(append(in.required, in.former, "KEY-ARN")...)
	a.Next = append(a.Next, "aws s3api put-bucket-encryption --bucket "+shellQuote(b.Name)+" --region "+shellQuote(r.config.Region)+
		" --server-side-encryption-configuration "+shellQuote(`{"Rules":[{"ApplyServerSideEncryptionByDefault":{"SSEAlgorithm":"aws:kms","KMSMasterKeyID":"`+key+`"},"BucketKeyEnabled":true}]}`))
	return a
}

func (r *Router) openAlert(e events.Event, b inventory.Bucket) alert.Alert {
	a := r.bucketAlert(e, b, alert.Medium)
	a.ID += "/policy"
	if len(b.AliasTags) > 0 {
		a.Severity = alert.High
	}
	a.Title = "The policy of bucket " + b.Name + " no longer denies uploads for their encryption"
	a.Risk = "Objects can be uploaded past the key that they should be under: with S3's own key, or with one of somebody else's."
	a.Next = append(a.Next, "aws s3api get-bucket-policy --bucket "+shellQuote(b.Name)+" --query Policy --output text")
	return a
}

// bucketAlert is what the alerts about a bucket have in common.
func (r *Router) bucketAlert(e events.Event, b inventory.Bucket, severity alert.Severity) alert.Alert {
	a := r.newAlert(e, alert.KindEncryption, "")
	a.Severity = severity
	if b.DefaultKeyARN != "" {
		a.Key = &alert.Key{ARN: b.DefaultKeyARN}
	}
	a.Summary = fmt.Sprintf("%s called %s on bucket %s.", who(e), e.Name, b.Name)
	if isSweep(e) {
		a.Summary = fmt.Sprintf("The sweep found bucket %s other than it was; no event told of the change.", b.Name)
	}
	a.Action = alert.Action{Status: alert.StatusNone, Description: "cmkeeper changes no bucket because of this."}
	a.Next = []string{"If this is not meant, put it back:"}
	return a
}

func orNone(key string) string { return cmp.Or(key, "none of its own") }
