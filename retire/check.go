package retire

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"

	"github.com/cmkeeper/cmkeeper/dependents"
	"github.com/cmkeeper/cmkeeper/internal/command"
	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/reencrypt"
	"github.com/cmkeeper/cmkeeper/state"
)

// KMS is what Schedule and Disable call; *kms.Client has it.
type KMS interface {
	DisableKey(context.Context, *kms.DisableKeyInput, ...func(*kms.Options)) (*kms.DisableKeyOutput, error)
	ScheduleKeyDeletion(context.Context, *kms.ScheduleKeyDeletionInput, ...func(*kms.Options)) (*kms.ScheduleKeyDeletionOutput, error)
}

// S3 is what a Checker calls in addition to an inventory.Reader; *s3.Client has it.
type S3 interface {
	ListMultipartUploads(context.Context, *s3.ListMultipartUploadsInput, ...func(*s3.Options)) (*s3.ListMultipartUploadsOutput, error)
	GetBucketReplication(context.Context, *s3.GetBucketReplicationInput, ...func(*s3.Options)) (*s3.GetBucketReplicationOutput, error)
}

// Surveyor reads the key of every object version of a bucket; *reencrypt.Engine does.
type Surveyor interface {
	Survey(ctx context.Context, scope reencrypt.Scope, keyARN string, envelopes reencrypt.Envelopes, seen func(int64)) (reencrypt.Survey, error)
}

// Reports reads the jobs of the fleet; *reencrypt.Engine does.
type Reports interface {
	Jobs(ctx context.Context, ended bool) ([]reencrypt.Summary, error)
	Report(ctx context.Context, id string) (reencrypt.Summary, error)
	Status(ctx context.Context, id string) (reencrypt.Status, error)
}

// Checker checks keys of one account and Region. Resources, Reports, Trail, Jobs, Accepted and Seen
// are optional, and Short does not need Survey.
type Checker struct {
	S3      S3
	Facts   *inventory.Reader
	Account string
	Survey  Surveyor
	// Resources, if not nil, finds out which resources beside S3's need the key. Without it
	// the notes say that these were not looked at.
	Resources *dependents.Reader
	// Envelopes is where data keys of client-side encryption are looked for. The notes say
	// where they were not.
	Envelopes reencrypt.Envelopes
	// Reports, if not nil, replace the scan of a bucket whose last job moved all
	// object versions off the key, is complete and left nothing behind, and looked for data
	// keys wherever Envelopes says.
	Reports Reports
	// Trail, if not nil, is asked who used the key within Quiet, and Jobs whether that was the
	// fleet.
	Trail Trail
	Jobs  Jobs
	// StateBucketSet says that the state bucket need not be named in the commands of an
	// answer, because the environment of who asks names it.
	StateBucketSet bool
	// Quiet is the minimum age of the last use.
	Quiet time.Duration
	// Accepted are the IDs of ties that may stay unknown.
	Accepted []string
	// Seen, if not nil, is called repeatedly while a bucket is scanned, with the number
	// of object versions so far.
	Seen func(bucket string, versions int64)
}

// Check determines what depends on a key, named by id, ARN or alias. An error means
// that the check itself failed.
func (c Checker) Check(ctx context.Context, key string) (Result, error) {
	f, err := c.read(ctx, key)
	if err != nil {
		return Result{}, fmt.Errorf("check key %s: %w", key, err)
	}
	verified, err := c.verified(ctx, f.key.ARN)
	if err != nil {
		return Result{}, fmt.Errorf("check key %s: read job reports: %w", key, err)
	}
	f.stateBucketSet = c.StateBucketSet
	if f.usage != nil && time.Since(f.usage.At) < c.Quiet {
		jobs, jobsErr := c.jobs(ctx)
		if f.user, err = c.lastUser(ctx, f.key, *f.usage, jobs, jobsErr); err == nil {
			f.uses, err = c.lookUp(ctx, f.key, jobs)
		}
		if err != nil {
			return Result{}, fmt.Errorf("check key %s: find out who used it: %w", key, err)
		}
	}
	for i := range f.buckets {
		if err := c.scan(ctx, &f, &f.buckets[i], verified); err != nil {
			return Result{}, fmt.Errorf("check key %s: %w", key, err)
		}
	}
	return judge(f, c.Quiet, c.Accepted, time.Now().UTC()), nil
}

// Short says in one line, for the report of a job, what other than objects depends
// on a key, or why that could not be determined. It reads no object.
func (c Checker) Short(ctx context.Context, keyARN string) []string {
	advice := " This says nothing of client-side encryption. Before you delete the key, run: " + command.Line("cmkeeper retire check %s --envelopes content", command.Key(keyARN))
	f, err := c.read(ctx, keyARN)
	if err != nil {
		return []string{fmt.Sprintf("Old key %s: what else depends on it could not be determined: %v.%s", keyARN, err, advice)}
	}
	if f.resources != nil {
		f.resources.Trail = dependents.Source{} // what was used is not what is needed, and this is one line
	}
	var ties []string
	r := judge(f, 0, nil, time.Now().UTC())
	for _, t := range append(r.Ties, r.Unknown...) {
		if !slices.Contains(ties, t.ID) {
			ties = append(ties, t.ID)
		}
	}
	if more := len(ties) - maxShort; more > 0 {
		ties = append(ties[:maxShort], fmt.Sprintf("and %d more", more))
	}
	line := fmt.Sprintf("Old key %s: nothing other than objects was found to depend on it.", keyARN)
	if len(ties) > 0 {
		line = fmt.Sprintf("Old key %s: other than objects, these depend on it or may depend on it: %s.", keyARN, strings.Join(ties, ", "))
	}
	if r.LastUse != "" {
		line += " Last used: " + r.LastUse + "; to re-encrypt an object is to use its old key."
	}
	return []string{line + advice}
}

// Beside determines what other than objects, uploads and replication rules depends on a
// key. It reads no object, and takes any last use.
func (c Checker) Beside(ctx context.Context, key string) (Result, error) {
	f, err := c.read(ctx, key)
	if err != nil {
		return Result{}, fmt.Errorf("check key %s: %w", key, err)
	}
	return judge(f, 0, nil, time.Now().UTC()), nil
}

// maxShort is how many ties a line names.
const maxShort = 20

// read reads everything but objects and uploads.
func (c Checker) read(ctx context.Context, name string) (facts, error) {
	f := facts{envelopes: c.Envelopes}
	var err error
	if f.key, err = c.Facts.Key(ctx, name); err != nil {
		return f, err
	}
	aliases, grants := dependents.Read[[]inventory.Alias]{At: time.Now()}, dependents.Read[[]inventory.Grant]{At: time.Now()}
	if f.aliases, err = c.Facts.AliasesOf(ctx, f.key.ARN); f.note(err, "aliases", "The key's aliases cannot be listed", "kms:ListAliases") != nil {
		return f, err
	}
	aliases.Value, aliases.Err = f.aliases, err
	if f.grants, err = c.Facts.Grants(ctx, f.key.ARN); f.note(err, "grants", "The key's grants cannot be listed", "kms:ListGrants") != nil {
		return f, err
	}
	grants.Value, grants.Err = f.grants, err
	if c.Resources != nil {
		found := c.Resources.Of(ctx, f.key, aliases, grants)
		if ctx.Err() != nil {
			return f, context.Cause(ctx)
		}
		f.resources = &found
	}
	used, err := c.Facts.LastUsage(ctx, f.key.ARN)
	if f.note(err, "last-use", "When the key was last used cannot be read", "kms:GetKeyLastUsage") != nil {
		return f, err
	}
	if err == nil {
		f.usage = &used
	}
	buckets, err := c.Facts.Buckets(ctx)
	if f.note(err, "buckets", "Not all buckets can be read", "s3:ListAllMyBuckets, s3:GetEncryptionConfiguration and s3:GetBucketTagging") != nil {
		return f, err
	}
	for _, b := range buckets {
		f.buckets = append(f.buckets, bucketFacts{Bucket: b})
	}
	return f, nil
}

// note records an error that AWS returned as an unknown, and returns any other error.
func (f *facts) note(err error, id, what, permission string) error {
	if err == nil {
		return nil
	}
	if _, answered := errors.AsType[smithy.APIError](err); !answered {
		return err
	}
	f.unread = append(f.unread, Tie{id, fmt.Sprintf("%s: %v.", what, err), "Grant " + permission + "."})
	return nil
}

// scan reads the replication, uploads and objects of a bucket.
func (c Checker) scan(ctx context.Context, f *facts, b *bucketFacts, verified map[string]reencrypt.Summary) error {
	replication, err := c.S3.GetBucketReplication(ctx, &s3.GetBucketReplicationInput{Bucket: &b.Name, ExpectedBucketOwner: &c.Account})
	if e, ok := errors.AsType[smithy.APIError](err); ok && e.ErrorCode() == "ReplicationConfigurationNotFoundError" {
		err = nil
	}
	if failed := f.note(err, "replication:"+b.Name, "The replication rules of bucket "+b.Name+" cannot be read", "s3:GetReplicationConfiguration"); failed != nil {
		return failed
	}
	if replication != nil && replication.ReplicationConfiguration != nil {
		for _, rule := range replication.ReplicationConfiguration.Rules {
			if d := rule.Destination; d != nil && d.EncryptionConfiguration != nil {
				arn, err := c.Facts.Resolve(ctx, aws.ToString(d.EncryptionConfiguration.ReplicaKmsKeyID))
				if errors.Is(err, inventory.ErrNotFound) {
					continue // no key has that name, and this one has one
				}
				if failed := f.note(err, "replication:"+b.Name, "The replica key of bucket "+b.Name+" cannot be looked up", "kms:DescribeKey"); failed != nil {
					return failed
				}
				b.replicates = b.replicates || arn == f.key.ARN
			}
		}
	}
	uploads, err := c.S3.ListMultipartUploads(ctx, &s3.ListMultipartUploadsInput{Bucket: &b.Name, EncodingType: types.EncodingTypeUrl, ExpectedBucketOwner: &c.Account})
	if failed := f.note(err, "uploads:"+b.Name, "The unfinished uploads of bucket "+b.Name+" cannot be listed", "s3:ListBucketMultipartUploads"); failed != nil {
		return failed
	}
	if uploads != nil {
		b.uploads = len(uploads.Uploads)
	}
	b.moveTo = c.moveTo(ctx, b.Bucket, f.key.ARN)
	if s, ok := verified[b.Name]; ok {
		b.job, b.verified = s.Job, s.Finished
		return nil
	}
	if slices.Contains(c.Accepted, "objects:"+b.Name) {
		b.unscanned = "you chose not to scan it"
		return nil
	}
	survey, err := c.Survey.Survey(ctx, reencrypt.Scope{Bucket: b.Name}, f.key.ARN, c.Envelopes, func(n int64) {
		if c.Seen != nil {
			c.Seen(b.Name, n)
		}
	})
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		b.unscanned = fmt.Sprintf("the scan failed: %v", err)
	default:
		b.survey = &survey
	}
	return nil
}

// moveTo returns the key of the bucket's default encryption, or an alias that the bucket is
// tagged with, where that is another key than this one, else "".
func (c Checker) moveTo(ctx context.Context, b inventory.Bucket, keyARN string) string {
	if b.DefaultKeyARN != "" && b.DefaultKeyARN != keyARN {
		return b.DefaultKey
	}
	for _, alias := range b.AliasTags {
		if to, err := c.Facts.Resolve(ctx, alias); err == nil && to != keyARN { // else it is no place to move to
			return alias
		}
	}
	return ""
}

// verified returns, by bucket, the last job whose report replaces a scan.
func (c Checker) verified(ctx context.Context, keyARN string) (map[string]reencrypt.Summary, error) {
	found := map[string]reencrypt.Summary{}
	if c.Reports == nil {
		return found, nil
	}
	jobs, err := c.Reports.Jobs(ctx, true)
	if err != nil && !errors.Is(err, state.ErrUnreadable) { // without its report a bucket is scanned
		return nil, err
	}
	for _, j := range jobs { // the newest first
		if _, newer := found[j.Bucket]; newer || j.State != reencrypt.StateComplete || j.Prefix != "" || !slices.Contains(j.From, keyARN) {
			continue
		}
		status, err := c.Reports.Status(ctx, j.Job)
		if err != nil {
			return nil, err
		}
		report, err := c.Reports.Report(ctx, j.Job)
		if err != nil {
			return nil, err
		}
		if proves(status, report, c.Envelopes) {
			found[j.Bucket] = report
		}
	}
	return found, nil
}

// proves reports whether a complete job of a whole bucket left nothing on its old keys, and
// no data keys where envelopes says.
func proves(s reencrypt.Status, report reencrypt.Summary, envelopes reencrypt.Envelopes) bool {
	return s.Versions == reencrypt.VersionsAll && s.RetryOf == "" && report.Refused+report.Failed == 0 && report.EnvelopesIn.Covers(envelopes)
}
