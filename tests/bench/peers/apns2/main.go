// The driver of apns2: see libraries.py.
package main

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/sideshow/apns2"
	"github.com/sideshow/apns2/payload"
	"github.com/sideshow/apns2/token"
)

var made atomic.Int64

func send(client *apns2.Client, topic string, total int, atOnce int) int64 {
	var sent atomic.Int64
	var left atomic.Int64
	left.Store(int64(total))
	var workers sync.WaitGroup
	for range make([]struct{}, atOnce) {
		workers.Add(1)
		go func() {
			defer workers.Done()
			for left.Add(-1) >= 0 {
				content := payload.NewPayload().AlertTitle("Order 7 shipped").AlertBody("Arrives Friday").Sound("default")
				device := fmt.Sprintf("bb%06x%056x", os.Getpid(), made.Add(1))
				answer, err := client.Push(&apns2.Notification{DeviceToken: device, Topic: topic, Payload: content})
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
				} else if answer.Sent() {
					sent.Add(1)
				}
			}
		}()
	}
	workers.Wait()
	return sent.Load()
}

func main() {
	key, err := token.AuthKeyFromFile(os.Args[1])
	if err != nil {
		panic(err)
	}
	count, _ := strconv.Atoi(os.Args[5])
	atOnce, _ := strconv.Atoi(os.Args[6])
	client := apns2.NewTokenClient(&token.Token{AuthKey: key, KeyID: os.Args[2], TeamID: os.Args[3]}).Production()
	send(client, os.Args[4], count/10, atOnce)
	fmt.Println("ready")
	lines := bufio.NewReader(os.Stdin)
	lines.ReadString('\n')
	fmt.Println("done", send(client, os.Args[4], count, atOnce))
	lines.ReadString('\n')
}
