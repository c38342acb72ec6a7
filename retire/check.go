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

	"github.com/cmkeeper/cmkeeper/inventory"
	"github.com/cmkeeper/cmkeeper/reencrypt"
)

// KMS is what Schedule calls; *kms.Client has it.
type KMS interface {
	ScheduleKeyDeletion(context.Context, *kms.ScheduleKeyDeletionInput, ...func(*kms.Options)) (*kms.ScheduleKeyDeletionOutput, error)
}

// S3 is what a Checker calls beside an inventory.Reader; *s3.Client has it.
type S3 interface {
	ListMultipartUploads(context.Context, *s3.ListMultipartUploadsInput, ...func(*s3.Options)) (*s3.ListMultipartUploadsOutput, error)
	GetBucketReplication(context.Context, *s3.GetBucketReplicationInput, ...func(*s3.Options)) (*s3.GetBucketReplicationOutput, error)
}

// Surveyor asks all object versions of a bucket for their key; *reencrypt.Engine does.
type Surveyor interface {
	Survey(ctx context.Context, scope reencrypt.Scope, keyARN string, seen func(int64)) (reencrypt.Survey, error)
}

// Reports knows the jobs of the fleet; *reencrypt.Engine does.
type Reports interface {
	Jobs(ctx context.Context, ended bool) ([]reencrypt.Summary, error)
	Report(ctx context.Context, id string) (reencrypt.Summary, error)
	Status(ctx context.Context, id string) (reencrypt.Status, error)
}

// Checker checks keys of one account and Region. All members are needed but
// Reports, Seen and Accepted, and Survey for Short.
type Checker struct {
	S3      S3
	Facts   *inventory.Reader
	Account string
	Survey  Surveyor
	// Reports, where not nil, stand for a scan: the last job that moved a whole
	// bucket, all versions, off the key, complete and with nothing left.
	Reports Reports
	// Quiet is how long ago the last use must be.
	Quiet time.Duration
	// Accepted are the IDs of what need not be known.
	Accepted []string
	// Seen is called now and then while a bucket is scanned.
	Seen func(bucket string, versions int64)
}

// Check finds out what ties us to a key, named by id, ARN or alias. Its error says
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
	for i := range f.buckets {
		if err := c.scan(ctx, &f, &f.buckets[i], verified); err != nil {
			return Result{}, fmt.Errorf("check key %s: %w", key, err)
		}
	}
	return judge(f, c.Quiet, c.Accepted, time.Now().UTC()), nil
}

// Short says what besides objects ties us to a key, for the report of a job: no
// object is read. It has a line also where it could not find out.
func (c Checker) Short(ctx context.Context, keyARN string) []string {
	advice := " Before it goes, run: cmkeeper retire check " + keyARN
	f, err := c.read(ctx, keyARN)
	if err != nil {
		return []string{fmt.Sprintf("What else holds on to the old key %s could not be found out: %v.%s", keyARN, err, advice)}
	}
	var ties []string
	r := judge(f, 0, nil, time.Now().UTC())
	for _, t := range append(r.Ties, r.Unknown...) {
		ties = append(ties, t.ID)
	}
	line := fmt.Sprintf("Old key %s: besides objects, nothing was found that holds on to it.", keyARN)
	if len(ties) > 0 {
		line = fmt.Sprintf("Old key %s: besides objects, this still holds on to it, or may: %s.", keyARN, strings.Join(ties, ", "))
	}
	if r.LastUse != "" {
		line += " Last used: " + r.LastUse + "."
	}
	return []string{line + advice}
}

// read reads everything but objects and uploads.
func (c Checker) read(ctx context.Context, name string) (facts, error) {
	var f facts
	var err error
	if f.key, err = c.Facts.Key(ctx, name); err != nil {
		return f, err
	}
	if f.aliases, err = c.Facts.AliasesOf(ctx, f.key.ARN); f.note(err, "aliases", "The key's aliases cannot be listed", "kms:ListAliases") != nil {
		return f, err
	}
	if f.grants, err = c.Facts.Grants(ctx, f.key.ARN); f.note(err, "grants", "The key's grants cannot be listed", "kms:ListGrants") != nil {
		return f, err
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

// note takes an answer of AWS that refuses as something that is not known, and
// returns any other error.
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
	if s, ok := verified[b.Name]; ok {
		b.job, b.verified = s.Job, s.Finished
		return nil
	}
	if slices.Contains(c.Accepted, "objects:"+b.Name) {
		b.unscanned = "it was not scanned, at your word"
		return nil
	}
	survey, err := c.Survey.Survey(ctx, reencrypt.Scope{Bucket: b.Name}, f.key.ARN, func(n int64) {
		if c.Seen != nil {
			c.Seen(b.Name, n)
		}
	})
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		b.unscanned = fmt.Sprintf("it could not be scanned to the end: %v", err)
	default:
		b.survey = &survey
	}
	return nil
}

// verified returns, by bucket, the last job whose report stands for a scan.
func (c Checker) verified(ctx context.Context, keyARN string) (map[string]reencrypt.Summary, error) {
	found := map[string]reencrypt.Summary{}
	if c.Reports == nil {
		return found, nil
	}
	jobs, err := c.Reports.Jobs(ctx, true)
	if err != nil {
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
		if proves(status, report) {
			found[j.Bucket] = report
		}
	}
	return found, nil
}

// proves reports whether a complete job of a whole bucket left nothing on its old keys.
func proves(s reencrypt.Status, report reencrypt.Summary) bool {
	return s.Versions == reencrypt.VersionsAll && s.RetryOf == "" && report.Refused+report.Failed == 0
}
