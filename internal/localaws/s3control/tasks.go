package s3control

import (
	"bytes"
	"context"
	"crypto/md5" //nolint:gosec // reports name the MD5 of their parts
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/localaws/s3"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

const (
	reportFormat   = "Report_CSV_20180820"
	manifestFormat = "S3InventoryReport_CSV_20211130"
	reportSchema   = "Bucket, Key, VersionId, TaskStatus, ErrorCode, HTTPStatusCode, ResultMessage"
)

// task is an object of a manifest, and what became of it; code is "" where it succeeded.
type task struct {
	bucket, key, version string
	status               int
	code, message        string
}

// call sends a request to S3, as the role, and returns the ETag and the body of
// the answer. An answer above 299 is a *wire.Error.
func (s *Service) call(ctx context.Context, role wire.Caller, method, bucket, key string, query url.Values, body []byte) (etag string, content []byte, err error) {
	address := url.URL{Scheme: "http", Host: "localaws.internal", Path: "/" + bucket + "/" + key, RawQuery: query.Encode()}
	r, err := http.NewRequestWithContext(wire.WithRequest(ctx, role, wire.NewUUID()), method, address.String(), bytes.NewReader(body))
	if err != nil {
		return "", nil, err
	}
	answer, err := s.objects.Do(r)
	if err != nil {
		return "", nil, err
	}
	defer func() { _ = answer.Body.Close() }()
	if content, err = io.ReadAll(answer.Body); err != nil {
		return "", nil, err
	}
	if answer.StatusCode < 300 {
		return answer.Header.Get("Etag"), content, nil
	}
	var e struct{ Code, Message string }
	if err := xml.Unmarshal(content, &e); err != nil {
		return "", nil, err
	}
	return "", nil, wire.Errorf(answer.StatusCode, e.Code, "%s", e.Message)
}

// do performs a task.
func (s *Service) do(ctx context.Context, j *job, role wire.Caller, t *task) {
	update := j.request.Operation.Update
	var body bytes.Buffer
	body.WriteString("<ObjectEncryption><SSE-KMS><KMSKeyArn>")
	_ = xml.EscapeText(&body, []byte(update.KeyARN)) // a bytes.Buffer never fails
	body.WriteString("</KMSKeyArn><BucketKeyEnabled>" + strconv.FormatBool(update.BucketKey) + "</BucketKeyEnabled></SSE-KMS></ObjectEncryption>")
	query := url.Values{"encryption": {""}}
	if t.version != "" {
		query.Set("versionId", t.version)
	}
	if _, _, err := s.call(ctx, role, http.MethodPut, t.bucket, t.key, query, body.Bytes()); err != nil {
		e := wire.AsError(err)
		t.status, t.code, t.message = e.HTTPStatus(), e.Code, e.Message
		return
	}
	t.status, t.message = http.StatusOK, "Successful"
}

// prepare returns the tasks of a job.
func (s *Service) prepare(ctx context.Context, j *job, role wire.Caller) ([]task, error) {
	if j.request.Manifest != nil {
		return s.readManifest(ctx, j.request.Manifest, role)
	}
	g := j.request.Generator
	if err := s.owned(g.ExpectedBucketOwner); err != nil {
		return nil, err
	}
	bucket := bucketOf(g.SourceBucket)
	if !role.May("s3:PutInventoryConfiguration", g.SourceBucket) {
		return nil, failure{"AccessDenied", "The role " + j.request.RoleArn + " may not s3:PutInventoryConfiguration on " + g.SourceBucket}
	}
	listed, ok := s.cfg.S3.Inventory(bucket)
	if !ok {
		return nil, noSuchBucket(bucket)
	}
	// Whether a generated manifest has noncurrent versions is not documented.
	// Here it has none, so that nobody can rely on them.
	var tasks []task
	var manifest bytes.Buffer
	lines := csv.NewWriter(&manifest)
	for _, o := range listed {
		if !g.Filter.match(o) {
			continue
		}
		tasks = append(tasks, task{bucket: bucket, key: o.Key, version: o.VersionID})
		if err := lines.Write([]string{bucket, url.QueryEscape(o.Key), o.VersionID}); err != nil {
			return nil, err
		}
	}
	lines.Flush()
	if len(tasks) == 0 {
		return nil, failure{"ManifestGenerationFailed", "Manifest generation found no keys matching the filter criteria."}
	}
	if !g.EnableManifestOutput {
		return tasks, nil
	}
	if err := s.owned(g.Output.ExpectedManifestBucketOwner); err != nil {
		return nil, err
	}
	out := bucketOf(g.Output.Bucket)
	key := join(g.Output.ManifestPrefix, "manifests/"+j.id+"/manifest.csv")
	etag, _, err := s.call(ctx, role, http.MethodPut, out, key, nil, manifest.Bytes())
	if err != nil {
		return nil, failure{"ManifestGenerationFailed", "The manifest could not be written: " + err.Error()}
	}
	j.mu.Lock()
	j.manifest = &locationBody{ETag: etag, ObjectArn: "arn:aws:s3:::" + out + "/" + key}
	j.mu.Unlock()
	return tasks, nil
}

// owned refuses an expected owner of a bucket who is not the account: all buckets
// that a job may use are its.
func (s *Service) owned(expected string) error {
	if expected != "" && expected != s.cfg.Account {
		return failure{"AccessDenied", "The bucket is not owned by the expected account " + expected}
	}
	return nil
}

func (f *filterBody) match(o s3.Listed) bool {
	each := func(list []string, has func(s, part string) bool) bool {
		return len(list) == 0 || has(o.Key, list[0])
	}
	return each(f.Key.Prefix, strings.HasPrefix) && each(f.Key.Substring, strings.Contains) && each(f.Key.Suffix, strings.HasSuffix) &&
		(f.CreatedAfter.IsZero() || o.Modified.After(f.CreatedAfter)) && (f.CreatedBefore.IsZero() || o.Modified.Before(f.CreatedBefore)) &&
		(f.LargerThan == nil || o.Size > *f.LargerThan) && (f.LessThan == nil || o.Size < *f.LessThan) &&
		(len(f.Encryption) == 0 || slices.ContainsFunc(f.Encryption, func(e encryptionFilter) bool { return e.match(o) }))
}

func (e encryptionFilter) match(o s3.Listed) bool {
	switch {
	case e.KMS != nil:
		return o.Encryption == "aws:kms" && (e.KMS.KeyARN == "" || e.KMS.KeyARN == o.KeyARN) && (e.KMS.BucketKey == nil || *e.KMS.BucketKey == o.BucketKey)
	case e.S3 != nil:
		return o.Encryption == "AES256"
	case e.DSSE != nil:
		return o.Encryption == "aws:kms:dsse" && (e.DSSE.KeyARN == "" || e.DSSE.KeyARN == o.KeyARN)
	case e.SSEC != nil:
		return o.Encryption == "SSE-C"
	}
	return false
}

// readManifest reads a manifest that is given. Its keys are URL-encoded.
func (s *Service) readManifest(ctx context.Context, m *manifestBody, role wire.Caller) ([]task, error) {
	bucket := bucketOf(m.ObjectARN)
	key := strings.TrimPrefix(m.ObjectARN, "arn:aws:s3:::"+bucket+"/")
	etag, content, err := s.call(ctx, role, http.MethodGet, bucket, key, nil, nil)
	if err != nil {
		return nil, failure{"ManifestReadFailed", "The manifest could not be read: " + err.Error()}
	}
	if strings.Trim(etag, `"`) != strings.Trim(m.ETag, `"`) {
		return nil, failure{"ManifestChanged", "The ETag of the manifest is not that of the request"}
	}
	lines := csv.NewReader(bytes.NewReader(content))
	lines.FieldsPerRecord = len(m.Fields)
	var tasks []task
	for {
		line, err := lines.Read()
		if errors.Is(err, io.EOF) {
			return tasks, nil
		}
		t := task{}
		if err == nil {
			t.bucket = line[0]
			t.key, err = url.QueryUnescape(line[1])
		}
		if err != nil {
			return nil, failure{"ManifestInvalid", "The manifest cannot be read: " + err.Error()}
		}
		if len(line) == 3 {
			t.version = line[2]
		}
		tasks = append(tasks, t)
	}
}

// resultFile is a part of a completion report.
type resultFile struct {
	TaskExecutionStatus string
	Bucket              string
	MD5Checksum         string
	Key                 string
}

// report writes the completion report: a file each of what succeeded and what
// failed, and a manifest of them. There is none where no task succeeded ("as long
// as at least one task has been invoked successfully").
func (s *Service) report(ctx context.Context, j *job, role wire.Caller, done []task) error {
	r := j.request.Report
	if !r.Enabled || !slices.ContainsFunc(done, func(t task) bool { return t.code == "" }) {
		return nil
	}
	if err := s.owned(r.ExpectedBucketOwner); err != nil {
		return err
	}
	bucket, base := bucketOf(r.Bucket), join(r.Prefix, "job-"+j.id)
	out := struct {
		Format             string
		ReportCreationDate string
		Results            []resultFile
		ReportSchema       string
	}{Format: reportFormat, ReportCreationDate: isoTime(time.Now()), Results: []resultFile{}, ReportSchema: reportSchema}
	for _, outcome := range []string{"succeeded", "failed"} {
		if outcome == "succeeded" && r.ReportScope == "FailedTasksOnly" {
			continue
		}
		var body bytes.Buffer
		lines := csv.NewWriter(&body)
		for _, t := range done {
			if (t.code == "") != (outcome == "succeeded") {
				continue
			}
			if err := lines.Write([]string{t.bucket, url.QueryEscape(t.key), t.version, outcome, t.code, strconv.Itoa(t.status), t.message}); err != nil {
				return err
			}
		}
		lines.Flush()
		if body.Len() == 0 {
			continue
		}
		sum := md5.Sum(body.Bytes()) //nolint:gosec // as the report has it
		f := resultFile{outcome, bucket, hex.EncodeToString(sum[:]), fmt.Sprintf("%s/results/%x.csv", base, sum)}
		if _, _, err := s.call(ctx, role, http.MethodPut, bucket, f.Key, nil, body.Bytes()); err != nil {
			return err
		}
		out.Results = append(out.Results, f)
	}
	body, err := json.Marshal(out)
	if err != nil {
		return err
	}
	_, _, err = s.call(ctx, role, http.MethodPut, bucket, base+"/manifest.json", nil, body)
	return err
}

// join puts a prefix and a name together, with one slash in between.
func join(prefix, name string) string {
	if prefix == "" {
		return name
	}
	return strings.TrimSuffix(prefix, "/") + "/" + name
}
