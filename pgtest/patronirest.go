package pgtest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

// restLimit bounds a question to Patroni, which a frozen one never answers.
const restLimit = 3 * time.Second

// restClient keeps no connection, and so no goroutine.
var restClient = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// call calls the node's REST API. Whatever is not a success is an error with
// Patroni's own words.
func (n *PatroniNode) call(ctx context.Context, method, path string, body, into any) error {
	if method == http.MethodGet {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, restLimit)
		defer cancel()
	}
	if err := callJSON(ctx, method, n.RESTURL()+path, body, into); err != nil {
		return fmt.Errorf("pgtest: Patroni of %s: %w", n.name, err)
	}
	return nil
}

// callJSON makes a request. into may be nil, a *string for the text as it is,
// or what its JSON is decoded into.
func callJSON(ctx context.Context, method, url string, body, into any) error {
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return err
		}
		content = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, url, content)
	if err != nil {
		return err
	}
	resp, err := restClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s: %s", method, req.URL.Path, resp.Status, text)
	}
	switch into := into.(type) {
	case nil:
		return nil
	case *string:
		*into = string(text)
		return nil
	default:
		return json.Unmarshal(text, into)
	}
}

// A member is what Patroni knows of a node.
type member struct{ Name, Role string }

// members asks the node for those that Patroni has noted in etcd.
func (n *PatroniNode) members(ctx context.Context) ([]member, error) {
	var cluster struct{ Members []member }
	err := n.call(ctx, http.MethodGet, "/cluster", nil, &cluster)
	return cluster.Members, err
}
