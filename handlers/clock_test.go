package handlers_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// clock is a worker's clock that is ahead of everybody else's by some time. A test has
// one clock only, so it is all others that are behind: times that reach the worker are
// earlier, and those that it stores are later.
type clock struct{ offset atomic.Int64 }

func (c *clock) set(ahead time.Duration) { c.offset.Store(int64(ahead)) }
func (c *clock) ahead() time.Duration    { return time.Duration(c.offset.Load()) }

// seen is a time of others as the worker sees it.
func (c *clock) seen(t time.Time) time.Time { return t.Add(-c.ahead()) }

// clockClient shows a worker what AWS's clock is, and when things happened in KMS and
// CloudTrail.
type clockClient struct {
	next  aws.HTTPClient
	clock *clock
}

func (c clockClient) Do(r *http.Request) (*http.Response, error) {
	service, ahead := awsmiddleware.GetServiceID(r.Context()), c.clock.ahead()
	dated := (service == "KMS" || service == "CloudTrail") && ahead != 0
	if dated && r.Body != nil {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, fmt.Errorf("read request: %w", err)
		}
		body = []byte(shiftNumbers(string(body), ahead))
		r = r.Clone(r.Context())
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	}
	answer, err := c.next.Do(r)
	if err != nil {
		return nil, err
	}
	answer.Header.Set("Date", c.clock.seen(time.Now()).UTC().Format(http.TimeFormat))
	if at, err := http.ParseTime(answer.Header.Get("Last-Modified")); err == nil {
		answer.Header.Set("Last-Modified", c.clock.seen(at).UTC().Format(http.TimeFormat))
	}
	if dated {
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			return nil, fmt.Errorf("read answer: %w", err)
		}
		body = []byte(shift(shiftNumbers(string(body), -ahead), -ahead))
		answer.Body, answer.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	}
	return answer, nil
}

var timeNumber = regexp.MustCompile(`"(\w*(?:Date|Time))":(\d{9,}(?:\.\d+)?)`)

// shiftNumbers moves all times in a text that are numbers of seconds.
func shiftNumbers(text string, by time.Duration) string {
	return timeNumber.ReplaceAllStringFunc(text, func(member string) string {
		parts := timeNumber.FindStringSubmatch(member)
		seconds, err := strconv.ParseFloat(parts[2], 64)
		if err != nil {
			return member
		}
		return fmt.Sprintf(`"%s":%.3f`, parts[1], seconds+by.Seconds())
	})
}

// clockState is S3 for the documents of a worker.
type clockState struct {
	*s3.Client
	clock *clock
}

var timeText = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`)

// shift moves all times in a text.
func shift(text string, by time.Duration) string {
	if by == 0 {
		return text
	}
	return timeText.ReplaceAllStringFunc(text, func(t string) string {
		at, err := time.Parse(time.RFC3339Nano, t)
		if err != nil || at.IsZero() {
			return t
		}
		return at.Add(by).Format(time.RFC3339Nano)
	})
}

func (c clockState) PutObject(ctx context.Context, in *s3.PutObjectInput, change ...func(*s3.Options)) (*s3.PutObjectOutput, error) {
	body, err := io.ReadAll(in.Body)
	if err != nil {
		return nil, fmt.Errorf("read what is stored: %w", err)
	}
	stored := *in
	stored.Body = strings.NewReader(shift(string(body), c.clock.ahead()))
	return c.Client.PutObject(ctx, &stored, change...)
}

func (c clockState) GetObject(ctx context.Context, in *s3.GetObjectInput, change ...func(*s3.Options)) (*s3.GetObjectOutput, error) {
	out, err := c.Client.GetObject(ctx, in, change...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = out.Body.Close() }()
	body, err := io.ReadAll(out.Body)
	if err != nil {
		return nil, err
	}
	out.Body = io.NopCloser(bytes.NewReader([]byte(shift(string(body), -c.clock.ahead()))))
	return out, nil
}
